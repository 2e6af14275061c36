"""A report of a study: one HTML file that can be sent, or Markdown."""
