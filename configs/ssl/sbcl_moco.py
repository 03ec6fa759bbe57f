"""SBCL with a queue (Hou et al., 2023): SBCL's subclasses of a long tail, on the host of MoCo v2. Uses labels.

`:imagenet`: JackHck/SBCL, moco/main.py, on a tail like that of ImageNet-LT, with one cosine of the learning rate over
both halves of the run, where its code begins anew at the second. Biases and norms are decayed too.

python -m contrastive_jax.train --config=configs/ssl/sbcl_moco.py --workdir=runs/sbcl_moco
"""

from configs import common
from configs.ssl import sbcl


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`, thinned as in `configs/ssl/sbcl.py`."""
  paper = dict(
    data=dict(batch_size=256, views=dict(name='moco_v2', image_size=224)),
    head=dict(norm='none', norm_last=False),
    method=dict(momentum=0.999, queue_size=65536, subclass_size=20, warmup_epochs=200, every_epochs=5),
    schedule=dict(learning_rate=0.1, warmup=0.0),
    optimiser=dict(name='sgd', weight_decay=1e-4, no_decay=''),
    train=dict(epochs=400),
  )
  method = dict(name='sbcl_moco', momentum=0.99, queue_size=1024, subclass_size=10, warmup_epochs=10, every_epochs=10)
  return sbcl.with_tail(common.config(variant, method=method | sbcl.EPOCHS.get(variant, {}), paper=paper), variant)
