"""Draws an image and answers a PNG thumbnail of it."""

import base64
import io

from PIL import Image, ImageDraw


def f(event, context):
    image = Image.new("RGB", (event["width"], event["height"]), event["colour"])
    ImageDraw.Draw(image).ellipse((0, 0, event["width"] - 1, event["height"] - 1), fill="white")
    image.thumbnail((event["most"], event["most"]))
    out = io.BytesIO()
    image.save(out, "PNG")
    return {
        "size": list(image.size),
        "centre": list(image.getpixel((image.width // 2, image.height // 2))),
        "corner": list(image.getpixel((0, 0))),
        "png": base64.b64encode(out.getvalue()).decode(),
    }
