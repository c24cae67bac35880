"""The transformer block: Wan's parameters, with modulation a latent frame and keys that can come from a context.

References: Wan (arXiv 2503.20314), Video4Spatial (arXiv 2512.03040), diffusers' transformer_wan.py for the names.
Axis letters: B batch, T latent frames, N tokens, D width.
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.normalization import FP32LayerNorm
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanRotaryPosEmbed
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

KeyValue = tuple[Tensor, Tensor]  # each (B, heads, N, D / heads)


class TimeIndexRotaryEmbed(WanRotaryPosEmbed):
    """Wan's rotary embedding with the time index of every latent given, so that it need not be contiguous."""

    def forward(self, time_index: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each (B, 1, N, head_dim / 2), for latents at ``time_index`` (B, T), N = T*height*width."""
        # While compiling, a look at the values would break the graph; the training data keep to the range.
        if not torch.compiler.is_compiling():
            low, high = time_index.min().item(), time_index.max().item()
            if low < 0 or high >= self.max_seq_len:
                raise ValueError(
                    f"expected time indices in 0..{self.max_seq_len - 1}, got {low}..{high}: "
                    "shorten the scan or shift all indices"
                )
        shape = (*time_index.shape, height, width)
        tables = []
        for freqs, part in ((self.freqs_cos, slice(0, None, 2)), (self.freqs_sin, slice(1, None, 2))):
            time, row, column = freqs.split([self.t_dim, self.h_dim, self.w_dim], dim=1)
            time = time[time_index][:, :, None, None].expand(*shape, -1)
            row = row[:height].view(1, 1, height, 1, -1).expand(*shape, -1)
            column = column[:width].view(1, 1, 1, width, -1).expand(*shape, -1)
            tables.append(torch.cat([time, row, column], dim=-1)[..., part].flatten(1, 3)[:, None])
        return tables[0], tables[1]


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the pairs of features of ``x`` (B, heads, N, head_dim) by the angles of ``rotary``."""
    cos, sin = rotary
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).type_as(x)


class ContextVideoBlock(nn.Module):
    """Self-attention (to own tokens and, if given, a context's keys and values), cross-attention to text, MLP."""

    def __init__(self, dim: int, ffn_dim: int, num_heads: int, cross_attn_norm: bool, eps: float, text: bool) -> None:
        super().__init__()
        head_dim = dim // num_heads
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = WanAttention(dim, heads=num_heads, dim_head=head_dim, eps=eps)
        self.attn2 = None
        if text:
            self.attn2 = WanAttention(
                dim, num_heads, head_dim, eps, cross_attention_dim_head=head_dim, processor=WanAttnProcessor()
            )
            self.norm2 = FP32LayerNorm(dim, eps, elementwise_affine=True) if cross_attn_norm else nn.Identity()
            nn.init.zeros_(self.attn2.to_out[0].weight)  # a model that could not read may learn it without a jolt
            nn.init.zeros_(self.attn2.to_out[0].bias)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.ffn = FeedForward(dim, inner_dim=ffn_dim, activation_fn="gelu-approximate")
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)

    def forward(
        self,
        hidden_states: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        encoder_hidden_states: Tensor | None = None,
        context: KeyValue | None = None,
        rotate_values: bool = False,
    ) -> tuple[Tensor, KeyValue]:
        """Args:
            hidden_states: (B, N, D), N = T * tokens a latent.
            modulation: (B, T, 6, D), from each latent's timestep.
            rotary: cosines and sines for the N tokens.
            encoder_hidden_states: (B, L, D) text, or None for no text.
            context: keys and values to attend to besides the tokens' own.
            rotate_values: also turn the values, and turn the mixed ones back, so that features move with their place
                (GTA, arXiv 2310.10375).

        Returns:
            the new hidden states, and the tokens' own keys and values.
        """
        frames = modulation.shape[1]
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.scale_shift_table + modulation.float())[
            :, :, :, None
        ].unbind(2)

        def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
            return (x.unflatten(1, (frames, -1)) * (1 + scale) + shift).flatten(1, 2).type_as(hidden_states)

        def add(x: Tensor, change: Tensor, gate: Tensor) -> Tensor:
            return (x.float() + (change.unflatten(1, (frames, -1)) * gate).flatten(1, 2)).type_as(x)

        states = modulate(self.norm1(hidden_states.float()), shift, scale)
        attention, own = self._attend(states, rotary, context, rotate_values)
        hidden_states = add(hidden_states, attention, gate)
        if encoder_hidden_states is not None:
            states = self.norm2(hidden_states.float()).type_as(hidden_states)
            hidden_states = hidden_states + self.attn2(states, encoder_hidden_states, None, None)
        states = modulate(self.norm3(hidden_states.float()), ffn_shift, ffn_scale)
        return add(hidden_states, self.ffn(states).float(), ffn_gate), own

    def _attend(
        self, states: Tensor, rotary: tuple[Tensor, Tensor], context: KeyValue | None, rotate_values: bool
    ) -> tuple[Tensor, KeyValue]:
        attention = self.attn1
        split = (attention.heads, -1)
        query = rotate(attention.norm_q(attention.to_q(states)).unflatten(2, split).transpose(1, 2), rotary)
        key = rotate(attention.norm_k(attention.to_k(states)).unflatten(2, split).transpose(1, 2), rotary)
        value = attention.to_v(states).unflatten(2, split).transpose(1, 2)
        if rotate_values:
            value = rotate(value, rotary)
        own = (key, value)
        if context is not None:
            key, value = (torch.cat(pair, dim=2) for pair in zip(context, own, strict=True))
        mixed = scaled_dot_product_attention(query, key, value.type_as(query))
        if rotate_values:
            mixed = rotate(mixed, (rotary[0], -rotary[1]))
        return attention.to_out[0](mixed.transpose(1, 2).flatten(2)), own


def repeat_cached(cached: KeyValue, batch: int) -> KeyValue:
    """A block's cached keys and values, one row a target; those of a single context are not copied."""
    repeats = batch // len(cached[0])
    key, value = (part[:, None].expand(-1, repeats, *part.shape[1:]).flatten(0, 1) for part in cached)
    return key, value


def zero_linear(features_in: int, features_out: int, bias: bool = True, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """A layer that says nothing until it has learnt to: parts that a stock checkpoint has not begin so."""
    layer = kind(features_in, features_out, bias)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
