"""What student and teacher predict for evaluation images."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import _frames
from .errors import DistilleryError

if TYPE_CHECKING:
    import pandas

    from . import types

    _Images = list[types.PredictedImage]
else:
    _Images = list

# How the server begins a picture.
_JPEG = "data:image/jpeg;base64,"


class Predictions(_Images):
    """Images with what both networks predict for them, as the API has them: those first about which the student is most
    wrong. A notebook shows their pictures."""

    def __init__(self, images: Iterable[types.PredictedImage], page: types.PredictionPage) -> None:
        super().__init__(images)
        #: The evaluation split.
        self.split = page["split"]
        #: How many images were chosen. There are fewer here if `limit` is lower.
        self.images = page["images"]
        #: How many of these have a picture.
        self.pictured = page["pictured"]
        #: Scales of the regions; empty for methods without regions.
        self.scales = page["scales"]

    def __repr__(self) -> str:
        return f"<{len(self)} of {self.images} images of {self.split!r}, {self.pictured} with a picture>"

    def frame(self) -> pandas.DataFrame:
        """A row for each image, without picture and regions. Needs pandas."""
        return _frames.of_predictions(self)

    def _repr_html_(self) -> str:
        figures = [_figure(image) for image in self if image.get("picture")]
        text = html.escape(repr(self)[1:-1])
        return f"<p>{text}</p><div style='display:flex;flex-wrap:wrap;gap:1em'>{''.join(figures)}</div>"


def jpeg_of(image: types.PredictedImage) -> bytes:
    """The picture of an image, as the bytes of a JPEG file.

    Raises:
        DistilleryError: it has none. `predictions(…, pictured=True)` has only images with a picture.
    """
    picture = image.get("picture")
    if not picture or not picture.startswith(_JPEG):
        raise DistilleryError(
            f"image {image['position']} has no picture: predictions(…, pictured=True) has only those with one"
        )
    return base64.b64decode(picture[len(_JPEG) :], validate=True)


def _figure(image: Any) -> str:
    """An image with its class and what is predicted for it. Names of classes are text from outside."""
    label = image["label"] if image.get("class") is None else image["class"]
    lines = [f"{label} ({image['position']})"]
    for network in ("student", "teacher"):
        if answer := image.get(network):
            predicted = answer["predicted"] if answer.get("class") is None else answer["class"]
            lines.append(f"{network}: {predicted} {answer['confidence']:.0%}")
    source, caption = html.escape(image["picture"]), "<br>".join(html.escape(line) for line in lines)
    return (
        f"<figure style='margin:0'><img src='{source}' style='width:96px;image-rendering:pixelated'>"
        f"<figcaption>{caption}</figcaption></figure>"
    )
