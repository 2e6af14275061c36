"""The nodes in ComfyUI's second node API (V3): the same inputs, outputs and names."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import ComfyExtension, io

from . import nodes

__all__ = ["SkipTuningExtension", "comfy_entrypoint"]


class SkipTuningApply(io.ComfyNode):  # type: ignore[misc]
    """Scales a model's skips as a file says."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the inputs and outputs."""
        tips = nodes.TOOLTIPS

        def part(name: str, default: float, *, optional: bool = True) -> Any:
            return io.Float.Input(
                name,
                default=default,
                min=0.0,
                max=1.0,
                step=0.01,
                optional=optional,
                tooltip=tips[name],
            )

        return io.Schema(
            node_id="SkipTuningApply",
            display_name=nodes.APPLY,
            category=nodes.CATEGORY,
            description=nodes.SkipTuningApply.DESCRIPTION,
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("file", options=nodes.file_names(), tooltip=tips["file"]),
                part("strength", 1.0, optional=False),
                part("start_percent", 0.0),
                part("end_percent", 1.0),
                io.Boolean.Input(
                    "setting_by_hand",
                    default=False,
                    optional=True,
                    tooltip=tips["setting_by_hand"],
                ),
            ],
            outputs=[
                io.Model.Output("patched", display_name="model"),
                io.String.Output("summary", display_name="summary"),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        """Check the file before anything runs."""
        return nodes.check(file)

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> str:
        """Return what tells one content of the file from another."""
        return nodes.fingerprint(file)

    @classmethod
    def execute(cls, model: Any, file: str, strength: float, **others: Any) -> Any:
        """Run the node."""
        return io.NodeOutput(*nodes.apply(model, nodes.load(file), strength=strength, **others))


class SkipTuningReport(io.ComfyNode):  # type: ignore[misc]
    """Says how many skips the last run scaled."""

    @classmethod
    def define_schema(cls) -> Any:
        """Return the inputs and outputs."""
        return io.Schema(
            node_id="SkipTuningReport",
            display_name=nodes.REPORT,
            category=nodes.CATEGORY,
            description=nodes.SkipTuningReport.DESCRIPTION,
            is_output_node=True,
            inputs=[
                io.Model.Input("model"),
                io.Latent.Input("latent", tooltip=nodes.TOOLTIPS["latent"]),
            ],
            outputs=[io.String.Output("report", display_name="report")],
        )

    @classmethod
    def execute(cls, model: Any, latent: Any) -> Any:
        """Run the node."""
        text = nodes.report(model)
        return io.NodeOutput(text, ui={"text": (text,)})


class SkipTuningExtension(ComfyExtension):  # type: ignore[misc]
    """What ComfyUI is told of this pack."""

    async def get_node_list(self) -> list[Any]:
        """Return the nodes."""
        return [SkipTuningApply, SkipTuningReport]


async def comfy_entrypoint() -> SkipTuningExtension:
    """Return the extension; ComfyUI calls it once."""
    return SkipTuningExtension()
