"""Sphinx: the guides of this folder and the API from docstrings. `python -m sphinx -W docs build/docs`."""

import os

# Modules are imported to read their docstrings; no accelerator is needed for that.
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

import contrastive_jax

project = 'contrastive_jax'
author = 'The contrastive_jax authors'
version = release = contrastive_jax.__version__

extensions = [
  'myst_parser',
  'sphinx.ext.apidoc',
  'sphinx.ext.autodoc',
  'sphinx.ext.mathjax',
  'sphinx.ext.napoleon',
  'sphinx.ext.viewcode',
]
apidoc_modules = [
  {
    'path': '../contrastive_jax',
    'destination': 'api',
    'max_depth': 3,
    'separate_modules': True,
    # The functions of these modules are the public names of contrastive_jax.losses: that page shows them.
    'exclude_patterns': ['../contrastive_jax/losses/[a-z]*.py'],
    'automodule_options': {'members', 'show-inheritance'},
  }
]
exclude_patterns = ['api/modules.rst']
default_role = 'code'
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
napoleon_use_ivar = True
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 3

html_theme = 'furo'
html_title = f'contrastive_jax {release}'
