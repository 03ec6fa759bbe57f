"""iSogCLR (Qiu et al., 2023): SogCLR with a temperature of each image, learned along with the encoder.

`:imagenet`: zhqiu/contrastive-learning-iSogCLR, the command for CIFAR-100, on the setting's ResNet-50, with the decay
that its code has for ImageNet, here half of it, as its loss is twice this one. LARS scales biases and norms too.

python -m contrastive_jax.train --config=configs/ssl/isog_clr.py --workdir=runs/isog_clr
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=128, views=dict(name='moco_v2', image_size=224)),
    head=dict(hidden=8192, features=8192, layers=3, norm_last=False, bias=False),
    method=dict(temperature=0.1),
    schedule=dict(learning_rate=0.8, scaling='none', warmup=10 / 400, final=0.001),
    optimiser=dict(weight_decay=5e-5, no_decay=''),
    train=dict(epochs=400),
  )
  return common.config(variant, method=dict(name='sog_clr', loss='isog_clr', temperature=0.2), paper=paper)
