"""Makes peers_official.json: what the official code of papers makes of small inputs in float64, with gradients.

    python tests/losses/peers_official.py CHECKOUTS

CHECKOUTS holds clones of the repositories below, at these commits. Written with torch 2.13; `diffdist` and
`horovod`, which some of them import for several devices, are not needed. Tests read peers_official.json alone.
Gradients are those in embeddings before they are scaled to unit norm.
"""

import importlib.util
import json
import pathlib
import sys
import types

import numpy as np
import torch
from torch.nn.functional import normalize

COMMITS = {
  'pakoromilas/Multi-View-CL': 'c26ae77984b7e4b3b6b4568a6a58d028f6132c89',
  'zhqiu/contrastive-learning-iSogCLR': 'c20903bd79d87ff1f99b0af946d92f7c3e3ec3d5',
  'JegZheng/CACR-SSL': 'fbc9d94810cf55c8461ed86a60e48e70e14acbbe',
  'Optimization-AI/fast_clip': 'efd89d51dd433ade5c171b84a6fa033a0d1fb874',
}
V, B, D = 3, 6, 5
STEPS = 2  # of losses with state, in epochs 0 and 1


def module(path: str):
  """A file of the checkouts, with the modules that it imports for several devices left empty."""
  for name in ('diffdist', 'utils', 'utils.utils'):
    sys.modules.setdefault(name, types.ModuleType(name))
  sys.modules['utils'].utils = sys.modules['utils.utils']
  spec = importlib.util.spec_from_file_location(path.replace('/', '_'), pathlib.Path(sys.argv[1]) / path)
  made = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(made)
  return made


def inputs() -> dict[str, np.ndarray]:
  random = np.random.default_rng(1)
  return {'views': random.normal(size=(V, B, D)), 'steps': random.normal(size=(STEPS, 2, B, D))}


def with_gradient(function, leaf) -> dict[str, torch.Tensor]:
  leaf = leaf.clone().requires_grad_()
  value = function(leaf)
  value.backward()
  return {'value': value.detach(), 'gradient': leaf.grad}


def multi_view(views) -> dict:
  """All of them scale rows to unit norm themselves, and see the views one after another."""
  code = module('Multi-View-CL/models/losses.py')
  cases = {
    'mv_info_nce': code.MVINFONCE(tau=0.3, multiplier=V),
    'mv_dhel': code.MVDHEL(tau=0.3, multiplier=V),
    'mv_dhel of pairs': code.MVDHEL(tau=0.3, multiplier=V, pwe=True),
    'mv_dhel of averages': code.MVDHEL(tau=0.3, multiplier=V, average=True),
    'nt_xent of pairs': code.NTXent(tau=0.3, multiplier=V, pwe=True),
    'nt_xent of averages': code.NTXent(tau=0.3, multiplier=V, average=True),
    'nt_xent of all positives': code.NTXent(tau=0.3, multiplier=V, mv=True),
    'poly_view': code.PVCLoss(tau=0.3, multiplier=V),
  }
  return {name: with_gradient(lambda z, loss=loss: loss(z.flatten(0, 1))[0], views) for name, loss in cases.items()}


def attraction(views) -> dict:
  small = module('CACR-SSL/small_scale_experiments/losses/__init__.py')
  large = module('CACR-SSL/imagenet_pretraining/moco/builder.py').MoCo

  def cacr(z, **options):
    rows = list(normalize(z, dim=-1))
    return small.our_loss1(rows, alpha=0.9, tau_pos=1.2)[0] + small.our_loss2(rows, beta=1.1, tau_neg=2.0, **options)[0]

  def momentum(z, cost):
    return getattr(large, f'cacr_{cost}loss')(types.SimpleNamespace(T=0.4), list(z[1:]), z[0].detach())

  return {
    'cacr': with_gradient(cacr, views),
    'cacr debiased': with_gradient(lambda z: cacr(z, with_debiased=True, tau_plus=0.1), views),
    'cacr_momentum rbf': with_gradient(lambda z: momentum(z, 'rbf'), views),
    'cacr_momentum euclidean': with_gradient(lambda z: momentum(z, 'euclidean'), views),
  }


def double(loss):
  """Its state, which are plain attributes, in float64."""
  for name, value in vars(loss).items():
    if isinstance(value, torch.Tensor) and value.is_floating_point():
      setattr(loss, name, value.double())
  return loss


def stepped(loss, call, state: tuple[str, ...], steps) -> dict:
  """Value and gradient of every step, and what is in the state after it."""
  found = []
  for epoch, z in enumerate(steps):
    each = with_gradient(lambda leaf, epoch=epoch: call(normalize(leaf, dim=-1), epoch), z)
    found.append(each | {name: getattr(loss, name).clone().reshape(-1) for name in state})
  return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def per_sample(steps) -> dict:
  rows = torch.arange(B)
  uni = module('contrastive-learning-iSogCLR/unimodal_exps/losses.py')
  bi = module('contrastive-learning-iSogCLR/bimodal_exps/models/losses.py')
  isog_clr = double(uni.SogCLR_DRO_Loss(N=B, bsz=B, tau_init=0.2, rho=0.4, eta_init=0.03, beta_u=0.5))
  sog_clip = double(bi.SogCLR_Loss(N=B, gamma=0.8, temperature=0.2, world_size=1))
  how = dict(N=B, bsz=B, tau_init=0.2, rho_init=1.0, eta_init=0.03, eta_sched='const', world_size=1)
  isog_clip = double(bi.SogCLR_DRO_Loss(**how))
  both = ('s_I', 's_T', 'b_I', 'b_T')
  return {
    'isog_clr': stepped(
      isog_clr, lambda z, epoch: isog_clr(rows, z.transpose(0, 1), epoch, 2)[0], ('s', 'tau', 'u'), steps
    ),
    'sog_clip': stepped(sog_clip, lambda z, epoch: sog_clip(*z, rows, rows), both, steps),
    'isog_clip': stepped(
      isog_clip,
      lambda z, epoch: isog_clip(*z, rows, rows, epoch, 2)[0],
      (*both, 'tau_I', 'tau_T', 'u_I', 'u_T'),
      steps,
    ),
  }


def fast_clip(steps) -> dict:
  """As training/train.py calls it, on one device."""
  code, rows = module('fast_clip/src/fast_clip/loss.py'), torch.arange(B)
  of_all = dict(data_size=B, gamma=0.6, gamma_schedule='constant', gamma_decay_epochs=1, device=torch.device('cpu'))
  shared = double(code.FastCLIPLoss(rho=6.5, **of_all))
  unscaled = double(code.FastCLIPLoss(multiply_tau=False, **of_all))
  own = double(code.FastCLIPLossIndividual(tau_init=0.2, lr_tau=0.02, rho=6.5, **of_all))
  scale = torch.tensor(1 / 0.2, dtype=torch.float64)

  def call(loss, z, epoch):
    loss.adjust_hyperparams(epoch)
    features, remote = tuple(z), tuple(side.detach() for side in z)
    loss1_im, loss1_tt, sim_im, sim_tt, kept = loss.local(features, (rows, rows), remote, logit_scale=scale, offset=0)
    individual = dict(u_im=kept[0], u_tt=kept[1])
    if len(kept) > 2:
      individual |= dict(tau_im=kept[2], tau_tt=kept[3], bound_im=kept[4], bound_tt=kept[5])
      individual |= dict(m_grad_tau_im=kept[8], m_grad_tau_tt=kept[9], v_grad_tau_im=kept[10], v_grad_tau_tt=kept[11])
    loss.set_params(rows, rows, **individual)
    return loss(
      features=features,
      remote_features=remote,
      remote_u=kept[:2],
      loss1=(loss1_im, loss1_tt),
      u=kept[:2],
      sim=(sim_tt.T, sim_im.T),
      logit_scale=scale,
      offset=0,
      **(dict(remote_tau=kept[6:8], remote_bounds=kept[4:6]) if len(kept) > 2 else {}),
    )

  cases = {
    'fast_clip v1': (unscaled, ('u_im', 'u_tt')),
    'fast_clip v2': (own, ('u_im', 'u_tt', 'bound_im', 'bound_tt', 'tau_im', 'tau_tt')),
    'fast_clip v3': (shared, ('u_im', 'u_tt')),
  }
  return {
    name: stepped(loss, lambda z, epoch, loss=loss: call(loss, z, epoch), state, steps)
    for name, (loss, state) in cases.items()
  }


def main():
  torch.Tensor.cuda = lambda self, *_: self  # they ask for a GPU
  torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
  arrays = {k: v.round(4) for k, v in inputs().items()}
  t = {k: torch.as_tensor(v) for k, v in arrays.items()}
  found = multi_view(t['views']) | attraction(t['views']) | per_sample(t['steps']) | fast_clip(t['steps'])
  stored = dict(
    commits=COMMITS,
    inputs={k: v.tolist() for k, v in arrays.items()},
    expected={k: {kind: np.round(v.numpy(), 9).tolist() for kind, v in each.items()} for k, each in found.items()},
  )
  pathlib.Path(__file__).with_suffix('.json').write_text(json.dumps(stored) + '\n')


if __name__ == '__main__':
  main()
