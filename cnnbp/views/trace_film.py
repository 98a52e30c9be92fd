"""A trace as a film: outputs appear one by one, then the gradients on their way back."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cnnbp.figures.figure_file import figure
from cnnbp.files import replacing
from cnnbp.views.trace import Trace, TracedComponent, describe
from cnnbp.views.trace_picture import DPI, HEIGHT, WIDTH, TracePicture

# of the picture's size
SIZE_FACTOR = 2 / 3
FRAME_MILLISECONDS = 1200
LAST_FRAME_MILLISECONDS = 6000


class Scene(NamedTuple):
    """One frame: what appears, in which direction, and the caption."""

    component: TracedComponent
    direction: str
    caption: str


def animate_trace(trace: Trace, label: int, path: str | Path, title: str = "") -> None:
    """Film a trace as a GIF."""
    # the figure saves its last state, which the film then replaces
    with figure(path, WIDTH / DPI, HEIGHT / DPI) as axes:
        axes.figure.set_dpi(DPI * SIZE_FACTOR)
        frames = _frames(axes, trace, label, title)
    # one palette for all, so that only what changes is stored
    palette = frames[-1].quantize(method=Image.Quantize.FASTOCTREE)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [FRAME_MILLISECONDS] * (len(frames) - 1) + [LAST_FRAME_MILLISECONDS]
    with replacing(path, "wb") as file:
        first, *others = frames
        first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)


def _scenes(trace: Trace, title: str) -> list[Scene]:
    *moving, loss = [component for component in trace if component.kind != "Dropout"]
    scenes = [Scene(moving[0], "forward", title)]
    for component in moving[1:]:
        caption = f"{component.name}: {describe(component.kind).forward}"
        scenes.append(Scene(component, "forward", caption))
    scenes.append(Scene(loss, "backward", f"loss: {describe(loss.kind).forward}"))
    # the gradient of the scores comes straight from the loss, so the logits are left out
    for target, source in reversed(list(pairwise([*moving[:-1], loss]))):
        caption = f"gradient back through {source.name}: {describe(source.kind).backward}"
        scenes.append(Scene(target, "backward", caption))
    return scenes


def _frames(axes: Any, trace: Trace, label: int, title: str) -> list[Image.Image]:
    """Draw each scene; only what changes is drawn anew, which is five times as fast."""
    picture, surface = TracePicture(axes, trace, label, ""), axes.figure.canvas
    surface.draw()
    drawn = background = surface.copy_from_bbox(axes.bbox)
    place = None
    frames = []
    for scene in _scenes(trace, title):
        if place != (scene.component.block, scene.direction):
            place, background = (scene.component.block, scene.direction), drawn
        surface.restore_region(background)
        for artist in picture.show(scene.component, scene.direction):
            axes.draw_artist(artist)
        drawn = surface.copy_from_bbox(axes.bbox)
        for artist in picture.point(scene.component, scene.direction, scene.caption):
            axes.draw_artist(artist)
        frames.append(Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB"))
    return frames
