"""A trace as a film: outputs appear one by one, then the gradients on their way back."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.views.layer_descriptions import describe
from cnnbp.views.trace import Trace, TracedComponent
from cnnbp.views.trace_panels import WIDTH
from cnnbp.views.trace_picture import DPI, HEIGHT, TracePicture

# of the picture's size
SIZE_FACTOR = 2 / 3
FRAME_MILLISECONDS = 1200
LAST_FRAME_MILLISECONDS = 6000


class Scene(NamedTuple):
    """One frame: what appears, in which direction, and the caption."""

    component: TracedComponent
    direction: str
    caption: str


def animate_trace(trace: Trace, path: str | Path, title: str = "") -> None:
    """Film a trace as a GIF."""
    # the figure saves its last state, which the film then replaces
    with figure(path, WIDTH / DPI, HEIGHT / DPI) as axes:
        axes.figure.set_dpi(DPI * SIZE_FACTOR)
        frames = _draw_frames(axes, trace, title)
    # one palette for all, so that only what changes is stored
    palette = frames[-1].quantize(method=Image.Quantize.FASTOCTREE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    with replacing(path, "wb") as file:
        first, *others = frames
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _scenes(picture: TracePicture, title: str) -> list[Scene]:
    """What appears one after the other: forward to the logits, the loss, back to the image."""
    shown = []
    for component in picture.trace.components:
        # in evaluation mode dropout changes nothing
        if component in picture.panel_of and component.kind != "Dropout":
            shown.append(component)
    image, *others, loss = shown
    scenes = [Scene(image, "forward", title)]
    for component in others:
        caption = f"{component.name}: {describe(component.kind).forward}"
        scenes.append(Scene(component, "forward", caption))
    scenes.append(Scene(loss, "backward", f"loss: {describe(loss.kind).forward}"))
    # the gradient at the last layer comes from the loss, so the logits between them are left out
    backward = [loss, *reversed(others[:-1]), image]
    for source, target in pairwise(backward):
        caption = f"gradient back through {source.name}: {describe(source.kind).backward}"
        scenes.append(Scene(target, "backward", caption))
    return scenes


def _draw_frames(axes: Any, trace: Trace, title: str) -> list[Image.Image]:
    """Draw each scene; only what changes is drawn anew, which is five times as fast."""
    picture, surface = TracePicture(axes, trace, ""), axes.figure.canvas
    surface.draw()
    drawn = background = surface.copy_from_bbox(axes.bbox)
    last_place = None
    frames = []
    for component, direction, caption in _scenes(picture, title):
        place = (picture.panel_of[component], direction)
        if place != last_place:
            last_place, background = place, drawn
        surface.restore_region(background)
        for artist in picture.show(component, direction):
            axes.draw_artist(artist)
        drawn = surface.copy_from_bbox(axes.bbox)
        for artist in picture.point(component, direction, caption):
            axes.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB"))
    return frames
