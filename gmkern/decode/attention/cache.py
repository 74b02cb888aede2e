"""Caches of keys and values: contiguous or in pages, as they are or in eight bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gmkern import _validate
from gmkern.decode.attention.api import FLOAT8, SCALED, Attention, attention

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, *SCALED)


def _raw(x: Tensor) -> Tensor:
    """Float8 as bytes: not every torch can index it."""
    return x.view(torch.uint8) if x.dtype == FLOAT8 else x


class KVCache:
    """Keys and values of B rows, for :func:`attention`; one layer's.

    Parameters
    ----------
    rows : B, at least 0.
    heads, head_dim : of keys and values; head_dim from 1 to 256.
    dtype : float32, bfloat16, float16, or int8: each vector is divided by its own scale, its largest magnitude / 127,
        and rounded to nearest, so that a number is off by at most half a scale. Or float8_e4m3fn: the scale is the
        largest magnitude / 448, and a number off by at most 1/16 of itself, or 2^-10 scales if that is more.
    capacity : positions that each row (contiguous), or pages that all rows together (paged), have room for at first. A
        cache that is full doubles: nothing is dropped.
    page_size : positions a page; None: contiguous rows.
    device : of the tensors.

    Attributes
    ----------
    keys, values : [B, capacity, heads, head_dim], or [pages, page_size, heads, head_dim].
    lengths : [B] int32.
    page_table : [B, n] int32, or None.

    Notes
    -----
    Paged rows may share pages: :meth:`share` gives a row another's positions without a copy, and a page that several
    rows hold is copied when one of them writes into it. Writes happen in place and carry no gradient. On a GPU
    :meth:`append`, :meth:`share` and :meth:`free` wait for the device, since the host makes room by the lengths that it
    reads, and so does :meth:`attend` where it is given rows; of all rows it does not, and can be captured in a graph.

    Examples
    --------
    >>> import torch
    >>> from gmkern.decode import KVCache
    >>> cache = KVCache(rows=2, heads=1, head_dim=4, page_size=16)
    >>> cache.append(torch.randn(2, 3, 1, 4), torch.randn(2, 3, 1, 4))  # three positions of both rows
    >>> cache.lengths.tolist(), cache.attend(torch.randn(2, 1, 4)).out.shape
    ([3, 3], torch.Size([2, 1, 4]))
    """

    def __init__(
        self,
        rows: int,
        heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype = torch.float32,
        capacity: int = 256,
        page_size: int | None = None,
        device: torch.device | str = "cpu",
    ):
        count = _validate.integer("rows", rows, low=0)
        shape = (
            _validate.integer("heads", heads, low=1),
            _validate.integer("head_dim", head_dim, low=1, high=256),
        )
        room = _validate.integer("capacity", capacity, low=1)
        if dtype not in _DTYPES:
            raise _validate.bad("dtype", str(dtype), ", ".join(map(str, _DTYPES)))
        device = _validate.device("device", device)
        self.page_size = None if page_size is None else _validate.integer("page_size", page_size, low=1)
        first = (count, room) if self.page_size is None else (room, self.page_size)
        self.keys = torch.zeros(*first, *shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        quantised = dtype in SCALED
        self.key_scale = torch.ones(*first, shape[0], device=device) if quantised else None
        self.value_scale = torch.ones(*first, shape[0], device=device) if quantised else None
        self.lengths = torch.zeros(count, dtype=torch.int32, device=device)
        self.page_table: Tensor | None = None
        if self.page_size is not None:
            self.page_table = torch.zeros(count, 1, dtype=torch.int32, device=device)
            self._holders = [0] * room  # of each page
            self._free = list(range(room - 1, -1, -1))

    def append(self, keys: Tensor, values: Tensor, *, rows: Sequence[int] | Tensor | None = None) -> None:
        """Adds positions at the end of each row: keys and values [B, t, heads, head_dim] (of ``rows``, in order)."""
        which = self._rows(rows)
        for name, x in (("keys", keys), ("values", values)):
            found = _validate.tensor(name, x, ndim=4, device=self.keys.device)
            wanted = (len(which), keys.shape[1], *self.keys.shape[2:])
            if found.shape != wanted or not found.is_floating_point():
                raise _validate.bad(name, found, f"floating-point numbers of shape {list(wanted)}")
        new = keys.shape[1]
        if new == 0 or not which:
            return
        index = torch.tensor(which, device=self.keys.device)
        start = self.lengths[index].long()
        at = start[:, None] + torch.arange(new, device=start.device)  # [rows, t]
        most = int(at.max()) + 1
        if most >= 1 << 31:
            raise _validate.bad("keys", f"{most} positions in a row", "fewer than 2^31")
        if self.page_size is None:
            if most > self.keys.shape[1]:
                self._grow(1, max(most, 2 * self.keys.shape[1]))
            where = (index[:, None].expand_as(at), at)
        else:
            for row, length in zip(which, start.tolist(), strict=True):
                self._own(row, length, length + new)
            table = self.page_table
            assert table is not None
            where = (table[index[:, None], at // self.page_size].long(), at % self.page_size)
        for cache, scale, x in ((self.keys, self.key_scale, keys), (self.values, self.value_scale, values)):
            x = x.detach()
            if scale is not None:
                greatest = SCALED[cache.dtype]
                step = (x.float().abs().amax(-1) / greatest).clamp_min(torch.finfo(torch.float32).tiny)
                if not torch.isfinite(step).all():
                    raise _validate.bad("keys and values", "a number that is not finite", f"finite for {cache.dtype}")
                scale[where] = step
                x = (x.float() / step.unsqueeze(-1)).clamp(-greatest, greatest)
                x = x.round() if cache.dtype == torch.int8 else x
            _raw(cache)[where] = _raw(x.to(cache.dtype))
        self.lengths[index] += new

    def attend(self, q: Tensor, *, rows: Sequence[int] | Tensor | None = None, **options: Any) -> Attention:
        """:func:`attention` of queries over all rows, or over ``rows`` in that order; ``options`` as there."""
        keys, values, scales = self.keys, self.values, [self.key_scale, self.value_scale]
        lengths, table = self.lengths, self.page_table
        if rows is not None:
            index = torch.tensor(self._rows(rows), dtype=torch.int64, device=keys.device)
            lengths = lengths[index]
            if table is None:
                keys, values = (_raw(x)[index].view(x.dtype) for x in (keys, values))
                scales = [None if x is None else x[index] for x in scales]
            else:
                table = table[index]
        return attention(q, keys, values, lengths, page_table=table, k_scale=scales[0], v_scale=scales[1], **options)

    def share(self, source: int, rows: Sequence[int] | Tensor) -> None:
        """Gives ``rows`` the positions of row ``source`` in place of their own: siblings of one prompt."""
        (origin,) = self._rows([source])
        others = [row for row in self._rows(rows) if row != origin]
        self.free(others)
        length = int(self.lengths[origin])
        if self.page_table is None or self.page_size is None:
            for cache in (self.keys, self.values, self.key_scale, self.value_scale):
                if cache is not None and others:
                    _raw(cache)[others, :length] = _raw(cache)[origin, :length].clone()
        else:
            pages = -(-length // self.page_size)
            for row in others:
                self.page_table[row, :pages] = self.page_table[origin, :pages]
            for page in self.page_table[origin, :pages].tolist():
                self._holders[page] += len(others)
        self.lengths[others] = length

    def free(self, rows: Sequence[int] | Tensor | None = None) -> None:
        """Empties rows; pages that no other row holds are free again."""
        which = self._rows(rows)
        if self.page_table is not None and self.page_size is not None:
            for row in which:
                pages = -(-int(self.lengths[row]) // self.page_size)
                for page in self.page_table[row, :pages].tolist():
                    self._let_go(page)
        self.lengths[which] = 0

    def _own(self, row: int, begin: int, end: int) -> None:
        """Pages of the row's own for positions [begin, end): new ones, and a copy of a shared one it writes into."""
        assert self.page_table is not None
        assert self.page_size is not None
        last = -(-end // self.page_size)
        if last > self.page_table.shape[1]:
            wider = self.page_table.new_zeros(len(self.page_table), max(last, 2 * self.page_table.shape[1]))
            wider[:, : self.page_table.shape[1]] = self.page_table
            self.page_table = wider
        held = -(-begin // self.page_size)
        if begin % self.page_size:
            page = int(self.page_table[row, held - 1])
            if self._holders[page] > 1:
                mine = self._page()
                for cache in (self.keys, self.values, self.key_scale, self.value_scale):
                    if cache is not None:
                        _raw(cache)[mine] = _raw(cache)[page]
                self._let_go(page)
                self.page_table[row, held - 1] = mine
        for place in range(held, last):
            self.page_table[row, place] = self._page()

    def _page(self) -> int:
        """A page that nobody holds, held once."""
        if not self._free:
            count = len(self._holders)
            self._grow(0, 2 * count)
            self._holders += [0] * count
            self._free = list(range(2 * count - 1, count - 1, -1))
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def _let_go(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page] == 0:
            self._free.append(page)

    def _grow(self, axis: int, room: int) -> None:
        """More positions (axis 1) or pages (axis 0), the old ones where they were."""
        for name in ("keys", "values", "key_scale", "value_scale"):
            old = getattr(self, name)
            if old is not None:
                new = old.new_zeros(tuple(room if i == axis else extent for i, extent in enumerate(old.shape)))
                new.narrow(axis, 0, old.shape[axis]).copy_(old)
                setattr(self, name, new)

    def _rows(self, rows: Sequence[int] | Tensor | None) -> list[int]:
        """Row numbers, each once."""
        count = len(self.lengths)
        if rows is None:
            return list(range(count))
        which = _validate.sample_ids(rows, torch.device("cpu"), name="rows").tolist()
        if any(not 0 <= row < count for row in which) or len(set(which)) != len(which):
            raise _validate.bad("rows", str(which), f"numbers from 0 to {count - 1}, each once")
        return which
