"""The same steps in JAX: vmap over members, jit, optax; a step a call, or a scan over many."""

from itertools import pairwise
from typing import Any

import numpy as np
from techniques import BATCHES, RATE, Take
from workloads import Workload


def take_of(workload: Workload, members: int, form: str) -> Take:
    """Steps in one of three forms.

    Args:
        workload: a perceptron or LeNet-5.
        members: g.
        form: "step", one jitted step a call; "scan", many steps a call; "unrolled", one step in
            which members are computed one after another.
    """
    import jax
    import jax.numpy as jnp
    import optax

    build, forward = _mlp(workload) if workload.sizes else _lenet()
    rng = np.random.default_rng(0)
    networks = [build(rng) for _ in range(members)]
    parameters = [np.stack(rows) for rows in zip(*networks, strict=True)]
    optimizer = optax.adam(RATE)
    xs, ys = (t.numpy() for t in workload.data(members, BATCHES))
    if not workload.sizes:
        xs = np.moveaxis(xs, -3, -1)  # channels last, as XLA wants them

    def loss(mine: Any, x: Any, y: Any) -> Any:
        logits = forward(mine, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def gradients(all_: Any, x: Any, y: Any) -> Any:
        if form != "unrolled":
            return jax.vmap(jax.grad(loss))(all_, x, y)
        rows = [jax.grad(loss)([p[i] for p in all_], x[i], y[i]) for i in range(members)]
        return [jnp.stack(row) for row in zip(*rows, strict=True)]

    def step(state: Any, batch: Any) -> Any:
        all_, carried = state
        updates, carried = optimizer.update(gradients(all_, *batch), carried, all_)
        return (optax.apply_updates(all_, updates), carried), None

    state = [jnp.asarray(p) for p in parameters]
    state = (state, optimizer.init(state))
    many = 64 if workload.sizes else 4
    if form == "scan":
        places = np.arange(many) % BATCHES
        batches = jnp.asarray(xs[places]), jnp.asarray(ys[places])
        run = jax.jit(lambda s, b: jax.lax.scan(step, s, b)[0], donate_argnums=0)
        return _taking(jax, run, state, [batches], many)
    pool = [(jnp.asarray(x), jnp.asarray(y)) for x, y in zip(xs, ys, strict=True)]
    run = jax.jit(lambda s, b: step(s, b)[0], donate_argnums=0)
    return _taking(jax, run, state, pool, 1)


def _taking(jax: Any, run: Any, state: Any, pool: list[Any], many: int) -> Take:
    def take(steps: int) -> None:
        nonlocal state
        for k in range(-(-steps // many)):
            state = run(state, pool[k % len(pool)])
        jax.block_until_ready(state)

    take.many = many  # pyright: ignore[reportFunctionMemberAccess]
    return take


def _mlp(workload: Workload) -> Any:
    import jax.numpy as jnp

    sizes = workload.sizes or ()

    def build(rng: Any) -> list[Any]:
        layers = [(rng.normal(0, i**-0.5, (i, o)), np.zeros(o)) for i, o in pairwise(sizes)]
        return [np.float32(t) for layer in layers for t in layer]

    def forward(mine: Any, x: Any) -> Any:
        for k in range(0, len(mine), 2):
            x = x @ mine[k] + mine[k + 1]
            x = jnp.maximum(x, 0) if k + 2 < len(mine) else x
        return x

    return build, forward


def _lenet() -> Any:
    import jax
    import jax.numpy as jnp

    shapes = [(5, 5, 1, 6), (6,), (5, 5, 6, 16), (16,), (400, 120), (120,), (120, 84), (84,),
              (84, 10), (10,)]  # fmt: skip

    def build(rng: Any) -> list[Any]:
        return [np.float32(rng.normal(0, 0.1, shape)) for shape in shapes]

    def convolve(x: Any, w: Any, b: Any, padding: str) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=numbers) + b
        window = (1, 2, 2, 1)
        pooled = jax.lax.reduce_window(y, -jnp.inf, jax.lax.max, window, window, "VALID")
        return jnp.maximum(pooled, 0)

    def forward(mine: Any, x: Any) -> Any:
        x = convolve(x, mine[0], mine[1], "SAME")
        x = convolve(x, mine[2], mine[3], "VALID").reshape(len(x), -1)
        for k in (4, 6, 8):
            x = x @ mine[k] + mine[k + 1]
            x = jnp.maximum(x, 0) if k < 8 else x
        return x

    return build, forward
