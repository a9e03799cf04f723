"""The graph modules of Allegro, under their documented names."""

from allegro.nn.edge_sum import EdgewiseReduce
from allegro.nn.layers import Allegro_Module
from allegro.nn.scalar_embedding import (
    ProductTypeEmbedding,
    TwoBodyBesselScalarEmbed,
    TwoBodySplineScalarEmbed,
)
from allegro.nn.tensor_embedding import TwoBodySphericalHarmonicTensorEmbed

__all__ = [
    "Allegro_Module",
    "EdgewiseReduce",
    "ProductTypeEmbedding",
    "TwoBodyBesselScalarEmbed",
    "TwoBodySphericalHarmonicTensorEmbed",
    "TwoBodySplineScalarEmbed",
]
