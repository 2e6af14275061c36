"""A ComfyUI node pack that scales a U-Net's skips as skiptune tuned them.

ComfyUI looks for the mappings of its first node API first and asks for a V3 extension only where
there are none, so a pack offers one of the two: V3 where ComfyUI knows it.
"""

try:
    from .extension import comfy_entrypoint
except ImportError:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
else:
    __all__ = ["comfy_entrypoint"]
