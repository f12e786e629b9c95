"""Train a small network on handwritten digits and print its held-out accuracy. This is the file that a study changes.

Plain NumPy, under half a second a run. OVERNIGHT_SEED decides the initial weights and the order of the examples.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np

import prepare

# the budget: the same number of passes over the data for every experiment
EPOCHS = 20  # overnight: fixed

# the network
HIDDEN = 24  # overnight: 16..96
ACTIVATION = "tanh"  # overnight: relu|tanh
INIT_SCALE = 1.0  # overnight: 0.4..2.5 log
DROPOUT = 0.2  # overnight: 0..0.6

# the optimiser
LEARNING_RATE = 0.03
MOMENTUM = 0.6
NESTEROV = False
BATCH_SIZE = 64  # overnight: 12..128
WARMUP = 0.1  # overnight: 0..0.4
FINAL_LR = 0.1  # as a fraction of the learning rate, reached along a cosine
WEIGHT_DECAY = 0.001
CLIP = 1.0  # overnight: 0.3..10 log

# the examples
SHIFT = 0.0  # overnight: 0..0.8
NOISE = 0.05  # overnight: 0..0.2
LABEL_SMOOTHING = 0.1  # overnight: 0..0.4


def act(z):
    """The activation and its slope."""
    if ACTIVATION == "relu":
        return np.maximum(z, 0), (z > 0).astype(z.dtype)
    a = np.tanh(z)
    return a, 1 - a * a


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def augment(x, rng):
    """Move a share of the images by one pixel and add noise to all of them."""
    if SHIFT > 0:
        moved = np.roll(x.reshape(-1, 8, 8), rng.integers(-1, 2, size=2), axis=(1, 2)).reshape(x.shape)
        x = np.where(rng.random((len(x), 1)) < SHIFT, moved, x)
    return x + rng.normal(0, NOISE, x.shape).astype(np.float32) if NOISE > 0 else x


def schedule(progress):
    """The learning rate at ``progress`` (0..1): a linear warm-up, then half a cosine down."""
    if progress < WARMUP:
        return LEARNING_RATE * progress / WARMUP
    return LEARNING_RATE * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + np.cos(np.pi * (progress - WARMUP) / (1 - WARMUP))))


def gradients(params, x, target, rng):
    """One forward and backward pass: the mean cross-entropy and the slope of every parameter."""
    w1, b1, w2, b2 = params
    h, slope = act(x @ w1 + b1)
    kept = (rng.random(h.shape) >= DROPOUT).astype(np.float32) / (1 - DROPOUT)
    h = h * kept
    p = softmax(h @ w2 + b2)
    d = (p - target) / len(x)
    dz = (d @ w2.T) * kept * slope
    loss = -float(np.sum(target * np.log(p + 1e-9))) / len(x)
    return loss, [x.T @ dz, dz.sum(axis=0), h.T @ d, d.sum(axis=0)]


def step(params, speeds, grads, lr):
    """Momentum SGD with weight decay and a bound on the length of the gradient."""
    length = np.sqrt(sum(float(np.vdot(g, g)) for g in grads))
    scale = min(1.0, CLIP / (length + 1e-9))
    for p, v, g in zip(params, speeds, grads, strict=True):
        g = g * scale + WEIGHT_DECAY * p
        v *= MOMENTUM
        v += g
        p -= lr * (g + MOMENTUM * v if NESTEROV else v)


def main():
    rng = np.random.default_rng(int(os.environ.get("OVERNIGHT_SEED", "0")))
    (x, y), _ = prepare.load()
    target = (np.eye(prepare.CLASSES) * (1 - LABEL_SMOOTHING) + LABEL_SMOOTHING / prepare.CLASSES).astype(np.float32)[y]
    shapes = [(prepare.PIXELS, HIDDEN), (HIDDEN, prepare.CLASSES)]
    params = []
    for rows, columns in shapes:
        params += [rng.normal(0, INIT_SCALE / np.sqrt(rows), (rows, columns)).astype(np.float32), np.zeros(columns, np.float32)]
    speeds = [np.zeros_like(p) for p in params]
    per_epoch = max(1, len(x) // BATCH_SIZE)
    for epoch in range(EPOCHS):
        order, total = rng.permutation(len(x)), 0.0
        for i in range(per_epoch):
            batch = order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE]
            loss, grads = gradients(params, augment(x[batch], rng), target[batch], rng)
            step(params, speeds, grads, schedule((epoch + i / per_epoch) / EPOCHS))
            total += loss
        if (epoch + 1) % 5 == 0:
            print(f"@loss={total / per_epoch:.4f} @epoch={epoch + 1}", flush=True)

    def predict(images):
        w1, b1, w2, b2 = params
        return np.argmax(act(images @ w1 + b1)[0] @ w2 + b2, axis=1)

    print(f"@acc={prepare.evaluate(predict):.4f}")


if __name__ == "__main__":
    main()
