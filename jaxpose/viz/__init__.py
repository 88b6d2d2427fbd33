"""Pictures of poses."""

from jaxpose.viz.overlay import draw_boxes, draw_poses, drawing_scale, panel

__all__ = ["draw_boxes", "draw_poses", "drawing_scale", "panel"]
