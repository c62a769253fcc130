"""Storage layouts of a weight, and the way from one to the papers' (matrices, m, n)."""

import dataclasses

import numpy as np

import multinorm_optax as mo

ROWS_FIRST = mo.MatrixAxes(output=0, input=1)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A shape with its row, column and batch axes, each in storage order."""

    shape: tuple[int, ...]
    output: tuple[int, ...]
    input: tuple[int, ...]

    @property
    def axes(self):
        return mo.MatrixAxes(output=self.output, input=self.input)

    @property
    def batch(self):
        return tuple(i for i in range(len(self.shape)) if i not in self.output + self.input)

    @property
    def _order(self):
        return (*self.batch, *self.output, *self.input)

    def matrices(self, w):
        """The stack (matrices, m, n) of the papers."""
        sides = [int(np.prod([self.shape[i] for i in side])) for side in (self.output, self.input)]
        count = int(np.prod([self.shape[i] for i in self.batch]))
        return np.asarray(w).transpose(self._order).reshape(count, *sides)

    def weight(self, matrices):
        """The inverse of `matrices`."""
        moved = np.reshape(matrices, [self.shape[i] for i in self._order])
        return moved.transpose(np.argsort(self._order))


LAYOUTS = {
    "flax": Layout((6, 4), (1,), (0,)),
    "torch": Layout((6, 4), (0,), (1,)),
    "square": Layout((5, 5), (1,), (0,)),
    "wide": Layout((3, 9), (0,), (1,)),
    "one_row": Layout((1, 5), (0,), (1,)),
    "one_column": Layout((5, 1), (0,), (1,)),
    "scalar_matrix": Layout((1, 1), (0,), (1,)),
    "stack_first": Layout((3, 6, 4), (2,), (1,)),
    "stack_middle": Layout((6, 3, 4), (2,), (0,)),
    "stack_last": Layout((6, 4, 3), (1,), (0,)),
    "two_stacks": Layout((2, 6, 3, 4), (3,), (1,)),
    "query": Layout((8, 2, 3), (1, 2), (0,)),
    "attention_out": Layout((2, 3, 8), (2,), (0, 1)),
    "convolution": Layout((2, 3, 4, 5), (3,), (0, 1, 2)),
    "scanned_query": Layout((2, 8, 3, 2), (2, 3), (1,)),
    "split_sides": Layout((2, 3, 2, 4), (3, 0), (2, 1)),
}
