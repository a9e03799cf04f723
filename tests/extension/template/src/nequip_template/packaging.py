"""What packages of this extension's models need from the environment in which they are loaded."""

from nequip_core.archive.rules import PackagingRules

__all__ = ["RULES"]

RULES = PackagingRules(
    external=("template_kernels",),
    mock=("template_plots",),
    requirements={"template_kernels": ">=1.2,<2"},
)
