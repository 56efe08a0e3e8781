"""Where in a model activations are read. Without tensors, so that settings and records can speak of sites at once."""

from dataclasses import dataclass
from typing import Literal, get_args

from itda.errors import SettingError

Stream = Literal["resid_post", "mlp_out", "attn_out"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
"""The streams that can be read. `itda.sources.models.streams` says how each one inside a block is found."""


@dataclass(frozen=True, order=True)
class Site:
    """Where in a model activations are read: what a block, its MLP or its attention hands to the residual stream.

    >>> str(Site(3)), str(Site(3, "mlp_out"))
    ('layer_3', 'layer_3.mlp_out')
    """

    layer: int
    stream: Stream = "resid_post"

    def __str__(self) -> str:
        return f"layer_{self.layer}" + ("" if self.stream == "resid_post" else f".{self.stream}")

    @property
    def short(self) -> str:
        """The site as a user types it: 3, or 3.mlp_out."""
        return str(self).removeprefix("layer_")

    @staticmethod
    def of(site: "Site | str | int") -> "Site":
        """Return a site as it is, or from its name or its layer. Raises `SettingError`.

        >>> Site.of(3) == Site.of("layer_3") == Site.of(Site(3))
        True
        """
        return site if isinstance(site, Site) else Site.parse(str(site))

    @staticmethod
    def parse(text: str) -> "Site":
        """Return the site that a text names, as `str` writes it. Raises `SettingError`."""
        layer, _, stream = text.removeprefix("layer_").partition(".")
        if not layer.isdecimal() or len(layer) > 9 or (stream or "resid_post") not in STREAMS:
            raise SettingError(f"no site {text[:80]!r}: write layer_3 or layer_3.mlp_out, with {', '.join(STREAMS)}")
        return Site(int(layer), stream or "resid_post")  # pyright: ignore[reportArgumentType]
