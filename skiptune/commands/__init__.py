"""The commands, grouped by what a person is doing; each is parsing, one call, and printing.

Only click and the leaves are imported at the top: everything heavier inside the functions, so
that `--help` and whatever samples nothing starts at once.
"""
