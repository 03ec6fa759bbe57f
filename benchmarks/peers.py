"""The losses of other libraries, in PyTorch, each given its best case; what is not installed says so by ImportError."""

import contextlib
import functools
from collections.abc import Callable

import numpy as np

from benchmarks import machine, measure
from benchmarks.contenders import TEMPERATURE, Case, Contender, Count, Program

PANEL = 1024  # rows at a time of the cached loss: its default of 32 is for encoders and slower here


@functools.cache
def _torch():
  """(PyTorch, the device that JAX computes on)."""
  import jax
  import torch

  torch.set_num_threads(machine.cores())
  if jax.default_backend() == 'cpu':
    return torch, 'cpu'
  if not torch.cuda.is_available():
    raise ImportError('no CUDA in this PyTorch')
  return torch, 'cuda'


def _program(build: Callable) -> Callable[[Case], Program]:
  """`build(torch, x, y)` returns a function that makes (value, gradients) with respect to the leaves x and y."""

  def make(given: Case) -> Program:
    torch, device = _torch()
    call = build(torch, *(torch.from_numpy(z).to(device).requires_grad_() for z in given))

    def run():
      found = call()
      if device == 'cuda':
        torch.cuda.synchronize()
      return found

    growth = _cuda_growth if device == 'cuda' else measure.peak_growth
    return Program(run, growth=growth, read=lambda tensor: tensor.detach().cpu().numpy())

  return make


def _cuda_growth(run: Callable):
  """As `measure.peak_growth`, of the memory that PyTorch takes of the GPU."""
  torch, _ = _torch()
  torch.cuda.empty_cache()
  torch.cuda.reset_peak_memory_stats()
  before = torch.cuda.memory_allocated()
  return run(), torch.cuda.max_memory_allocated() - before


def _differentiated(torch, loss: Callable, x, y):
  """`loss(x, y)` with its gradients."""

  def call():
    value = loss(x, y)
    return value, torch.autograd.grad(value, (x, y))

  return call


def matmul(n: int) -> Callable[[], object]:
  """A product of two n x n float32 matrices."""
  torch, device = _torch()
  a = torch.from_numpy(np.random.default_rng(0).standard_normal((n, n), np.float32)).to(device)

  def run():
    product = a @ a
    if device == 'cuda':
      torch.cuda.synchronize()
    return product

  return run


def _clip(torch, x, y, *, twice: bool, bfloat16: bool = False):
  """Logits of scaled rows and a cross-entropy of each direction (Radford et al., 2021, figure 3).

  `twice`: as OpenCLIP, which makes the logits of each direction by a product of their own.
  """
  partner = torch.arange(len(x), device=x.device)
  cross_entropy = torch.nn.functional.cross_entropy

  def loss(x, y):
    half = torch.autocast(x.device.type, torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    with half:
      of_x = (x / TEMPERATURE) @ y.T  # rows are scaled, not logits: a pass over B x B less
      of_y = (y / TEMPERATURE) @ x.T if twice else of_x.T
      return (cross_entropy(of_x, partner) + cross_entropy(of_y, partner)) / 2

  return _differentiated(torch, loss, x, y)


def _sentence_transformers(torch, x, y, *, cached: bool):
  """Its ranking loss, in both directions; the plain one keeps the logits, the cached one a panel of them."""
  from sentence_transformers.sentence_transformer import losses
  from sentence_transformers.util import dot_score

  options = dict(
    model=torch.nn.Sequential(torch.nn.Identity()),  # the embeddings are there already
    scale=1 / TEMPERATURE,
    similarity_fct=dot_score,  # the rows are unit: it need not divide by norms
    directions=('query_to_doc', 'doc_to_query'),
    partition_mode='per_direction',
  )
  if not cached:
    plain = losses.MultipleNegativesRankingLoss(**options)
    return _differentiated(torch, lambda x, y: plain.compute_loss_from_embeddings([x, y], None), x, y)
  panels = losses.CachedMultipleNegativesRankingLoss(mini_batch_size=PANEL, **options)

  def call():
    x.grad = y.grad = None
    value = panels.calculate_loss([[x], [y]], with_backward=True)  # pulls each panel back at once
    return value, (x.grad, y.grad)

  return call


def _metric_learning(torch, x, y, *, name: str):
  """NT-Xent by its class of that name, or by its supervised loss, which is the same for two views of an instance."""
  from pytorch_metric_learning import losses

  return _differentiated(torch, losses.SelfSupervisedLoss(getattr(losses, name)(temperature=TEMPERATURE)), x, y)


def symmetric() -> tuple[Contender, ...]:
  """Symmetric InfoNCE; the bytes are those of the B x B arrays that were seen to live at once."""

  def sentences(cached):
    return _program(functools.partial(_sentence_transformers, cached=cached))

  def clip(**options):
    return _program(functools.partial(_clip, **options))

  return (
    Contender('OpenCLIP formulation, PyTorch', clip(twice=True), Count(12), lambda b: 16 * b**2),
    Contender(
      'OpenCLIP formulation, PyTorch, bfloat16',
      clip(twice=True, bfloat16=True),
      Count(12),
      lambda b: 20 * b**2,
      products='bfloat16',
    ),
    Contender('one matmul, PyTorch', clip(twice=False), Count(6), lambda b: 16 * b**2),
    Contender('sentence-transformers', sentences(False), Count(12), lambda b: 24 * b**2),
    Contender('sentence-transformers, cached', sentences(True), Count(12), lambda b: 24 * PANEL * b),
  )


def nt_xent() -> tuple[Contender, ...]:
  """NT-Xent of two views."""

  def learning(name):
    return _program(functools.partial(_metric_learning, name=name))

  return (
    # (positive pair, negative pair) matrices: 2 B rows, 2 B (2 B - 2) columns.
    Contender('pytorch-metric-learning NTXentLoss', learning('NTXentLoss'), Count(6, 'N'), lambda b: 17 * 8 * b**3),
    Contender('pytorch-metric-learning SupConLoss', learning('SupConLoss'), Count(6, 'N'), lambda b: 64 * (2 * b) ** 2),
  )
