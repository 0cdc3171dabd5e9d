"""When a training is looked into: often where much changes, and so seldom in all that it costs little."""

_PAYS = 100  # rows trained on for each row of a probe, which costs about as much as three of them
_GROWTH = 1.06  # of the epochs from one probe to the next, so that a long training keeps few


def find_probe_steps(*, epochs: int, steps: int, rows: int, n: int) -> tuple[int, ...]:
    """Steps after which to probe: at once, after 1, 4, 16, ... steps of the first epoch, and at the end of epochs.

    These are the epochs 1, 2, 4, 8, ..., the last one, and others before which a hundred times as many rows were trained on as a
    probe takes; for a thousand epochs, 90 or fewer.

    Args:
        steps, rows: of an epoch. n: rows of a probe.
    """
    found, last = [0], 0
    while (step := 4 ** (len(found) - 1)) < steps:
        found.append(step)
    for epoch in range(1, epochs + 1):
        pays = (epoch - last) * rows >= _PAYS * n and epoch >= _GROWTH * last
        if epoch == epochs or epoch & (epoch - 1) == 0 or pays:
            found.append(epoch * steps)
            last = epoch
    return tuple(found)
