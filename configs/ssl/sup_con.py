"""SupCon (Khosla et al., 2020): views of images of one class are positives. Uses labels.

`:imagenet`: google-research/supcon, scripts/supcon_imagenet_resnet50.sh, with SimCLR's views for its AutoAugment. Its
loss is scaled by its temperature: its decay of 1e-3 is 1e-2 here, and what LARS does not scale learns at a tenth.

python -m contrastive_jax.train --config=configs/ssl/sup_con.py --workdir=runs/sup_con
"""

from configs import common


def get_config(variant: str = ''):
  """`variant` names a setting of `configs.common`."""
  paper = dict(
    data=dict(batch_size=6144),
    head=dict(layers=1, norm='none', norm_last=False),
    schedule=dict(learning_rate=0.4, warmup=12 / 350),
    optimiser=dict(weight_decay=1e-2, rates=(('.*(bias|scale)', 0.1),)),
    train=dict(epochs=350),
  )
  return common.config(variant, method=dict(name='pair', loss='sup_con', temperature=0.1), paper=paper)
