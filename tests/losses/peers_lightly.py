"""Makes peers_lightly.json: small inputs, and what lightly and open_clip make of them in float64, with gradients.

    python tests/losses/peers_lightly.py

Written with lightly 1.6.0, open_clip_torch 3.3.0 and torch 2.13 (`pip install lightly open_clip_torch`). Tests read
peers_lightly.json and need none of them. Gradients are those in embeddings before they are scaled to unit norm.
"""

import json
import pathlib

import lightly
import numpy as np
import open_clip
import torch
from lightly import loss as losses
from lightly.loss.hypersphere_loss import HypersphereLoss
from lightly.loss.swav_loss import sinkhorn
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn.functional import normalize


def inputs() -> dict[str, np.ndarray]:
  """Views of norms around 1; scores of crops and of a queue with prototypes; keys; a centre."""
  random = np.random.default_rng(0)
  return {
    'views': random.normal(size=(2, 10, 5)) / 2,
    'four': random.normal(size=(4, 6, 5)) / 2,
    'queue': random.normal(size=(7, 5)),
    'crops': random.normal(size=(3, 6, 4)) / 2,
    'teacher': random.normal(size=(2, 6, 4)) / 2,
    'stored': random.normal(size=(2, 8, 4)) / 2,
    'centre': random.normal(size=4) / 4,
    'logits': np.array([1 / 0.07, -5.0]),
  }


def of_views(t) -> dict:
  """Functions of a leaf `[V, B, D]`; keys say which array they are of and, after a colon, its options."""
  mmcr = losses.MMCRLoss(lmda=0.3)
  return {
    'nt_xent': losses.NTXentLoss(temperature=0.2),
    'dcl': losses.DCLLoss(temperature=0.2),
    'dclw': losses.DCLWLoss(temperature=0.2, sigma=0.4),
    'barlow_twins': losses.BarlowTwinsLoss(lambda_param=0.02),
    'vicreg': losses.VICRegLoss(lambda_param=20.0, mu_param=15.0, nu_param=2.0),
    'negative_cosine': losses.NegativeCosineSimilarity(),
    'align_uniform': HypersphereLoss(t=1.5, lam=0.7, alpha=3.0),
    'w_mse': lambda a, b: losses.WMSELoss(embedding_dim=5, w_size=10, eps=0.1).double()(torch.cat([a, b])),
    'mmcr': lambda a, b: mmcr(*(normalize(each, dim=-1).unsqueeze(1) for each in (a, b))),
    'clip': lambda a, b: ClipLoss()(normalize(a), normalize(b), t['logits'][0]),
    'siglip': lambda a, b: SigLipLoss()(normalize(a), normalize(b), t['logits'][0], t['logits'][1]),
  }


def with_queue(t):
  """MoCo's and, given neighbours, NNCLR's: the second view is a key."""

  def loss(a, b):
    found = losses.NTXentLoss(temperature=0.2, memory_bank_size=(len(t['queue']), 5))
    found.memory_bank.bank = normalize(t['queue'])
    return found(a, b.detach())

  return loss


def dino(t):
  made = losses.DINOLoss(output_dim=4, student_temp=0.1, teacher_temp=0.06, center_momentum=0.8).double()
  made.center.data = t['centre'][None, None]
  return made


def with_gradient(function, *leaves) -> dict[str, torch.Tensor]:
  leaves = [leaf.clone().requires_grad_() for leaf in leaves]
  value = function(*leaves).squeeze()
  value.backward()
  return {'value': value.detach(), 'gradient': torch.stack([leaf.grad for leaf in leaves])}


def made(t) -> dict[str, dict[str, torch.Tensor]]:
  found = {name: with_gradient(loss, *t['views']) for name, loss in of_views(t).items()}
  first = with_queue(t)
  found['queue'] = with_gradient(lambda a: first(a, t['views'][1]), t['views'][0])
  two = losses.MMCRLoss(lmda=0.3)

  def mmcr(*views):
    unit = normalize(torch.stack(views, 1), dim=-1)
    return two(unit[:, :2], unit[:, 2:])

  found['mmcr of four'] = with_gradient(mmcr, *t['four'])
  swav = losses.SwaVLoss(temperature=0.15, sinkhorn_epsilon=0.1)
  found['swav'] = with_gradient(lambda *crops: swav(list(crops[:2]), list(crops[2:])), *t['crops'])
  found['swav with a queue'] = with_gradient(
    lambda *crops: swav(list(crops[:2]), list(crops[2:]), list(t['stored'])), *t['crops']
  )
  of_teacher = dino(t)
  found['dino'] = with_gradient(lambda *crops: of_teacher(list(t['teacher']), list(crops)), *t['crops'])
  found['dino']['centre'] = of_teacher.center.data.reshape(-1)
  found['sinkhorn'] = {'value': sinkhorn(t['crops'][0], iterations=3, epsilon=0.05)}
  return found


def main():
  arrays = {k: v.round(4) for k, v in inputs().items()}
  found = made({k: torch.as_tensor(v) for k, v in arrays.items()})
  stored = dict(
    version=f'lightly {lightly.__version__}, open_clip_torch {open_clip.__version__}, '
    f'torch {torch.__version__.partition("+")[0]}',
    inputs={k: v.tolist() for k, v in arrays.items()},
    expected={k: {kind: np.round(v.numpy(), 9).tolist() for kind, v in each.items()} for k, each in found.items()},
  )
  pathlib.Path(__file__).with_suffix('.json').write_text(json.dumps(stored) + '\n')


if __name__ == '__main__':
  main()
