"""SBCL (Hou et al., 2023): SupCon among subclasses of about the size of the rarest class, on a long tail. Uses labels.

`:imagenet`: JackHck/SBCL, for views of a batch where its code has a queue (`configs/ssl/sbcl_moco.py`), on a tail like
that of ImageNet-LT; the term of the whole class has one temperature there. `:fashion_mnist` has the warm-up of so short
a run.

python -m contrastive_jax.train --config=configs/ssl/sbcl.py --workdir=runs/sbcl
"""

from configs import common

IMBALANCE = {'fashion_mnist': 100.0, 'cifar10': 100.0, 'imagenet': 256.0}  # 10 of other settings
EPOCHS = {'fashion_mnist': dict(warmup_epochs=2, every_epochs=2)}  # of other settings those of the method, or the paper


def with_tail(config, variant: str):
  """The config with a training set that is thinned to the long tail of the setting."""
  config.data.imbalance = IMBALANCE.get(variant, 10.0)
  return config


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`, whose training set is thinned to a long tail."""
  paper = dict(
    data=dict(batch_size=256),
    method=dict(temperature=0.07, class_temperature=0.12, beta=0.2, subclass_size=20, every_epochs=5),
    schedule=dict(learning_rate=0.1, scaling='none', warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4),
    train=dict(epochs=400),
  )
  method = dict(name='sbcl') | EPOCHS.get(variant, {})
  return with_tail(common.config(variant, method=method, paper=paper), variant)
