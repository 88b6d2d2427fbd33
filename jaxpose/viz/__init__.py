"""Pictures of poses."""

from jaxpose.viz.overlay import draw_poses, drawing_scale, panel

__all__ = ["draw_poses", "drawing_scale", "panel"]
