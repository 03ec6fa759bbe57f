"""Networks behind one shape, `Encoder(init, apply, per_example)`: the only package that imports flax."""
