"""Runtime modules of the models, the part of this distribution that packages carry.

Rules for this folder: import torch, `nequip_core.fields` and siblings only; raise standard-library
errors; keep plain data in attributes, so that a module pickles and traces.
"""
