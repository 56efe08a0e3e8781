"""Where in a model activations are read. Without tensors, so that settings and records can speak of sites at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from itda.errors import SettingError

Stream = Literal["resid_post", "mlp_out", "attn_out"]
STREAMS: tuple[Stream, ...] = get_args(Stream)
"""The streams that can be read. `itda.sources.models.streams` says how each one inside a block is found."""
HOOKS: Mapping[str, Stream] = {
    "hook_resid_post": "resid_post",
    "hook_out": "resid_post",  # the name of TransformerLens 4 itself, which knows the older ones too
    "hook_mlp_out": "mlp_out",
    "hook_attn_out": "attn_out",
}
"""The streams of a block by the names that TransformerLens and SAELens have for them."""


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

    @property
    def hook_name(self) -> str:
        """The site as TransformerLens and SAELens name it.

        >>> Site(3).hook_name, Site(3, "mlp_out").hook_name
        ('blocks.3.hook_resid_post', 'blocks.3.hook_mlp_out')
        """
        return f"blocks.{self.layer}.hook_{self.stream}"

    @staticmethod
    def of(site: "Site | str | int") -> "Site":
        """Return a site as it is, or from its name, its hook's name or its layer. Raises `SettingError`.

        >>> Site.of(3) == Site.of("layer_3") == Site.of("blocks.3.hook_resid_post") == Site.of(Site(3))
        True
        """
        return site if isinstance(site, Site) else Site.parse(str(site))

    @staticmethod
    def parse(text: str) -> "Site":
        """Return the site that a text names, as `str` or `hook_name` writes it. Raises `SettingError`."""
        if text.startswith("blocks."):
            return _of_hook(text)
        layer, _, stream = text.removeprefix("layer_").partition(".")
        if not layer.isdecimal() or len(layer) > 9 or (stream or "resid_post") not in STREAMS:
            raise SettingError(f"no site {text[:80]!r}: write layer_3 or layer_3.mlp_out, with {', '.join(STREAMS)}")
        return Site(int(layer), stream or "resid_post")  # pyright: ignore[reportArgumentType]


def _of_hook(name: str) -> Site:
    """Return the site that TransformerLens calls by a name such as blocks.3.hook_mlp_out. Raises `SettingError`."""
    layer, _, hook = name.removeprefix("blocks.").partition(".")
    known = layer.isdecimal() and len(layer) <= 9
    if known and hook in HOOKS:
        return Site(int(layer), HOOKS[hook])
    if known and hook in ("hook_resid_pre", "hook_in") and int(layer):
        raise SettingError(f"{name} is what the block before returns: write blocks.{int(layer) - 1}.hook_resid_post")
    if known and hook in ("mlp.hook_out", "attn.hook_out"):
        # In Gemma 2 and its like a norm comes between, so it is not what the block adds.
        stream = hook.partition(".")[0]
        raise SettingError(f"{name} need not be what is added to the stream: write blocks.{layer}.hook_{stream}_out")
    raise SettingError(f"no site {name[:80]!r}: write blocks.3.hook_resid_post, with {', '.join(HOOKS)}")
