"""Whether pictures are like those that published networks have learnt from: files in colour, larger than thumbnails, and few.

It looks at headers alone, so that nothing is decoded to know. It must not know networks.
"""

from collections.abc import Sequence

from clearsight.data.read.pictures import PictureFacts

MOST_PICTURES = 20_000
"""More take a processor longer than a quarter of an hour to send through a network, and are enough to train one on."""
MOST_A_CLASS = 1000
SMALL_SIDE = 64


def describe_photographs(facts: Sequence[PictureFacts], *, classes: int) -> str:
    """What such pictures are in words, as `200 colour pictures of 109 sizes, 100 a class`; empty if they are others.

    They are such pictures if more than half have colour, more than half are larger than 64 pixels on both sides, and there are
    at most 20,000 in all and 1,000 a class on average.

    Args:
        facts: what the headers of the files say; empty where pictures are not files.
    """
    n = len(facts)
    if n == 0 or classes < 2 or n > MOST_PICTURES or n > MOST_A_CLASS * classes:
        return ""
    coloured = sum(not one.is_grey for one in facts)
    large = sum(min(one.height, one.width) > SMALL_SIDE for one in facts)
    if 2 * coloured <= n or 2 * large <= n:
        return ""
    sizes = {(one.height, one.width) for one in facts}
    size = f"{facts[0].width}x{facts[0].height} pixels" if len(sizes) == 1 else f"{len(sizes):,} sizes"
    a_class = f"{n // classes:,}" if n % classes == 0 else f"about {n / classes:,.0f}"
    return f"{n:,} colour pictures of {size}, {a_class} a class"
