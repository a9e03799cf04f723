"""The documented ``nequip.*`` names and the objects of this project that they mean.

One table serves the config loader, the checkpoint reader and the facade distribution alike: a
``_target_`` such as ``nequip.model.NequIPGNNModel`` in a config or a checkpoint resolves to ours
whether the facade, or any other distribution named ``nequip``, is installed or not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["DOCUMENTED_NAMES", "canonical_name", "facade_module"]

# parent of the documented names -> {module of ours: names}
_TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "nequip.data": {
        "nequip_core.frames": ("from_dict",),
        "nequip_core.ase_conversion": ("from_ase", "to_ase"),
        "nequip_core.neighbors": (
            "DEFAULT_NEIGHBORLIST_BACKEND",
            "compute_neighborlist_",
            "register_neighborlist_backend",
        ),
        "nequip_core.fields": (
            "ABBREV",
            "deregister_fields",
            "get_field_type",
            "register_fields",
            "_register_field_prefix",
            "_CARTESIAN_TENSOR_FIELDS",
            "_EDGE_FIELDS",
            "_GRAPH_FIELDS",
            "_LONG_FIELDS",
            "_NODE_FIELDS",
        ),
        "nequip_train.data.batch_sizes": ("SizeLimitedBatchSampler",),
        "nequip_train.data.statistics": (
            "CommonDataStatisticsManager",
            "DataStatisticsManager",
            "EnergyOnlyDataStatisticsManager",
            "Count",
            "Max",
            "Mean",
            "MeanAbsolute",
            "Min",
            "RootMeanSquare",
            "StandardDeviation",
        ),
        "nequip_train.data.modifiers": (
            "BaseModifier",
            "EdgeLengths",
            "MappedFieldModifier",
            "NumNeighbors",
            "PerAtomModifier",
        ),
        "nequip_train.data.partial_sampler": ("PartialSampler",),
    },
    "nequip.data._nl": {
        "nequip_core.neighbors": (
            "DEFAULT_NEIGHBORLIST_BACKEND",
            "NEIGHBORLIST_BACKEND_ALCHEMIOPS",
            "NEIGHBORLIST_BACKEND_ASE",
            "NEIGHBORLIST_BACKEND_MATSCIPY",
            "NEIGHBORLIST_BACKEND_OPTIONS",
            "NEIGHBORLIST_BACKEND_VESIN",
            "NeighborlistBackendSpec",
            "compute_neighborlist_",
            "register_neighborlist_backend",
        ),
    },
    "nequip.data.datamodule": {
        "nequip_train.data.ase_datamodule": ("ASEDataModule",),
        "nequip_train.data.datamodules": ("NequIPDataModule",),
        "nequip_train.data.benchmark_npz": (
            "MD22DataModule",
            "rMD17DataModule",
            "sGDML_CCSD_DataModule",
        ),
        "nequip_train.data.benchmark_xyz": (
            "COLLDataModule",
            "NequIP3BPADataModule",
            "SAMD23DataModule",
            "TM23DataModule",
            "WaterDataModule",
        ),
    },
    "nequip.data.dataset": {
        "nequip_train.data.array_datasets": ("HDF5Dataset", "NPZDataset"),
        "nequip_train.data.lmdb_dataset": ("LMDBTestDataset", "NequIPLMDBDataset"),
        "nequip_train.data.datasets": (
            "ASEDataset",
            "AtomicDataset",
            "EMTTestDataset",
        ),
        "nequip_train.data.subsets": ("RandomSplitAndIndexDataset", "SubsetByRandomSlice"),
    },
    "nequip.data.transforms": {
        "nequip_core.transforms": (
            "AddNaNStressTransform",
            "ChemicalSpeciesToAtomTypeMapper",
            "DatasetIndexTransform",
            "NeighborListPruneTransform",
            "NeighborListTransform",
            "NonPeriodicCellTransform",
            "SortedNeighborListTransform",
            "StressSignFlipTransform",
            "VirialToStressTransform",
        ),
    },
    "nequip.model": {
        "nequip_model.gnn": ("FullNequIPGNNModel", "NequIPGNNModel"),
        "nequip_model.presets": ("PresetNequIPGNNModel",),
        "nequip_model.pair_potentials": ("ZBLPairPotential",),
        "nequip_model.builder": ("model_builder",),
        "nequip_model.modify": ("modify",),
        "nequip_model.checkpoint_bases": ("ModelFromCheckpoint",),
        "nequip_core.archive.loading": ("ModelFromPackage", "ModelTypeNamesFromPackage"),
        "nequip_model.compile_modes": ("override_model_compile_mode",),
        "nequip_train.muon": ("MuonParamGroups",),
    },
    "nequip.model.modify_utils": {
        "nequip_core.modifiers": ("get_all_modifiers", "only_apply_persistent_modifiers"),
        "nequip_model.modify": ("modify",),
    },
    "nequip.nn": {
        "nequip_model.graph_modules.mixin": ("GraphModuleMixin", "SequentialGraphNetwork"),
        "nequip_model.graph_modules.atomwise": (
            "ApplyFactor",
            "AtomwiseLinear",
            "AtomwiseOperation",
            "AtomwiseReduce",
            "AvgNumNeighborsNorm",
            "Concat",
            "PerTypeScaleShift",
            "SaveForOutput",
            "ShiftedSoftplus",
        ),
        "nequip_model.graph_modules.interaction": ("ConvNetLayer", "InteractionBlock"),
        "nequip_model.graph_modules.mlp": ("ScalarMLP", "ScalarMLPFunction"),
        "nequip_model.graph_modules.derivatives": ("ForceStressOutput", "PartialForceOutput"),
        "nequip_model.graph_modules.functional": (
            "scatter",
            "tp_path_exists",
            "with_edge_type_",
            "with_edge_vectors_",
        ),
        "nequip_model.nn.modifier": ("model_modifier", "replace_submodules"),
        "nequip_model.nn.graph_model": ("GraphModel",),
    },
    "nequip.nn.compile": {
        "nequip_model.compile_graph_model": ("CompileGraphModel",),
        "nequip_model.compile_wrappers": (
            "DictInputOutputWrapper",
            "ListInputOutputStateDictWrapper",
            "ListInputOutputWrapper",
        ),
    },
    "nequip.nn.utils": {
        "nequip_model.graph_modules.functional": (
            "ir_mul_to_mul_ir",
            "mul_ir_to_ir_mul",
            "scatter",
            "tp_path_exists",
            "with_edge_type_",
            "with_edge_vectors_",
        ),
    },
    "nequip.nn.embedding": {
        "nequip_model.graph_modules.node_embedding": ("NodeTypeEmbed",),
        "nequip_model.graph_modules.vector_embedding": ("AppendVectorFieldEmbed",),
        "nequip_model.graph_modules.edges": (
            "AddRadialCutoffToData",
            "BesselEdgeLengthEncoding",
            "EdgeLengthNormalizer",
            "PolynomialCutoff",
            "SphericalHarmonicEdgeAttrs",
        ),
    },
    "nequip.nn.embedding.utils": {
        "nequip_core.cutoffs": (
            "cutoff_fulldict_to_tensor",
            "cutoff_partialdict_to_fulldict",
            "cutoff_partialdict_to_str",
            "cutoff_partialdict_to_tensor",
            "cutoff_str_to_fulldict",
            "cutoff_tensor_to_str",
        ),
    },
    "nequip.nn.graph_model": {
        "nequip_model.nn.graph_model": (
            "MODEL_DTYPE_KEY",
            "NUM_TYPES_KEY",
            "PER_EDGE_TYPE_CUTOFF_KEY",
            "R_MAX_KEY",
            "TYPE_NAMES_KEY",
            "GraphModel",
        ),
    },
    "nequip.nn.model_modifier_utils": {
        "nequip_model.nn.modifier": ("model_modifier", "replace_submodules"),
    },
    "nequip.utils": {
        "nequip_model.graph_modules.environment": (
            "RankedLogger",
            "conditional_torchscript_jit",
            "conditional_torchscript_mode",
            "dtype_from_name",
            "dtype_to_name",
            "find_first_of_type",
            "floating_point_tolerance",
            "get_current_code_versions",
            "torch_default_dtype",
        ),
        "nequip_model.graph_modules.files": ("download_url", "extract_tar", "extract_zip"),
    },
    "nequip.utils.compile": {
        "nequip_model.graph_modules.environment": (
            "conditional_torchscript_jit",
            "conditional_torchscript_mode",
        ),
    },
    "nequip.utils.dtype": {
        "nequip_model.graph_modules.environment": (
            "dtype_from_name",
            "dtype_to_name",
            "floating_point_tolerance",
            "torch_default_dtype",
        ),
    },
    "nequip.utils.global_dtype": {
        "nequip_model.graph_modules.environment": ("_GLOBAL_DTYPE",),
    },
    "nequip.utils.global_state": {
        "nequip_model.graph_modules.environment": (
            "TF32_KEY",
            "get_latest_global_state",
            "global_state_initialized",
            "set_global_state",
        ),
    },
    "nequip.utils.test": {
        "nequip_model.testing.symmetry": (
            "FLOAT_TOLERANCE",
            "assert_AtomicData_equivariant",
            "assert_permutation_equivariant",
        ),
        "nequip_model.testing.irreps_debug": ("override_irreps_debug", "set_irreps_debug"),
        "nequip_model.testing.neighbor_lists": ("compare_neighborlists",),
    },
    "nequip.utils.unittests": {"nequip_model.testing": ("CONFTEST_PATH",)},
    "nequip.utils.unittests.device": {
        "nequip_model.testing.devices": ("get_accelerators", "get_test_devices"),
    },
    "nequip.utils.unittests.model_tests": {
        "nequip_model.testing.model_tests": ("BaseEnergyModelTests",),
    },
    "nequip.utils.unittests.model_tests_basic": {
        "nequip_model.testing.model_tests": ("BasicModelTestsMixin", "EnergyModelTestsMixin"),
    },
    "nequip.utils.resolvers": {"nequip_train.resolvers": ("register_resolvers",)},
    "nequip.scripts._compile_utils": {
        "nequip_core.compile_registration": (
            "COMPILE_TARGET_DICT",
            "LMP_OUTPUTS",
            "PAIR_NEQUIP_INPUTS",
            "batched_data_settings",
            "register_compile_targets",
            "single_frame_batch_map_settings",
            "single_frame_data_settings",
        ),
    },
    "nequip.scripts._package_utils": {
        "nequip_core.archive.rules": ("register_libraries_as_external_for_packaging",),
        "nequip_core.archive.modes": ("register_packaging_mode",),
    },
    "nequip.data.dataset.lmdb_dataset": {
        "nequip_train.data.lmdb_dataset": ("NequIPLMDBDataset",),
        "nequip_train.data.lmdb_files": (
            "LMDBMetadataSpec",
            "NUM_ATOMS_METADATA_KEY",
            "NUM_EDGES_METADATA_KEY",
            "NUM_FRAMES_METADATA_KEY",
        ),
    },
    "nequip.data.ase": {"nequip_core.ase_conversion": ("from_ase", "to_ase")},
    "nequip.nn.pair_potential": {
        "nequip_model.nn.pair_potential": ("LennardJones", "SimpleLennardJones", "ZBL"),
    },
    "nequip.train": {
        "nequip_train.modules": ("EMALightningModule", "NequIPLightningModule"),
        "nequip_train.conflict_free": ("ConFIGLightningModule", "EMAConFIGLightningModule"),
        "nequip_train.schedule_free": ("ScheduleFreeLightningModule",),
        "nequip_train.simple_ddp": ("SimpleDDPStrategy",),
        "nequip_train.muon": ("MuonWithAuxAdam",),
        "nequip_train.stratified_huber": ("StratifiedHuberForceLoss",),
        "nequip_train.metrics": (
            "HuberLoss",
            "MaximumAbsoluteError",
            "MeanAbsoluteError",
            "MeanSquaredError",
            "RootMeanSquaredError",
        ),
        "nequip_train.metrics_manager": ("MetricsManager",),
        "nequip_train.losses": (
            "EnergyForceLoss",
            "EnergyForceMetrics",
            "EnergyForceStressLoss",
            "EnergyForceStressMetrics",
            "EnergyOnlyLoss",
            "EnergyOnlyMetrics",
        ),
    },
    "nequip.train.callbacks": {
        "nequip_train.callbacks.loss_coefficients": (
            "LinearLossCoefficientScheduler",
            "LossCoefficientMonitor",
            "LossCoefficientScheduler",
        ),
        "nequip_train.callbacks.profiler": ("TorchProfilerCallback",),
        "nequip_train.callbacks.soft_adapt": ("SoftAdapt",),
        "nequip_train.callbacks.tf32": ("TF32Scheduler",),
        "nequip_train.callbacks.training_statistics": ("TrainingStatsMonitor", "WandbWatch"),
        "nequip_train.callbacks.xyz_files": ("TestTimeXYZFileWriter", "ValTimeXYZFileWriter"),
    },
    "nequip.integrations.ase": {"nequip_integrations.ase": ("NequIPCalculator",)},
    "nequip.ase": {"nequip_integrations.ase": ("NequIPCalculator",)},
    "nequip.integrations.torchsim": {"nequip_integrations.torchsim": ("NequIPTorchSimCalc",)},
}

# documented name -> name of ours, where the two differ in more than the module
_RENAMED: dict[str, str] = {
    "nequip.model.saved_models.load_utils.load_saved_model": (
        "nequip_core.saved_model.load_one_model"
    ),
    "nequip.data.AtomicDataDict": "nequip_core.atomic_data_dict",
    "nequip.nn.graph_model.NEQUIP_CUSTOM_OPS_LIBS_KEY": (
        "nequip_model.nn.graph_model._CUSTOM_LIBRARIES_KEY"
    ),
    "nequip.model.utils._COMPILE_MODE_OPTIONS": "nequip_model.compile_modes.COMPILE_MODES",
    "nequip.model.utils._EAGER_MODEL_KEY": "nequip_model.compile_modes.COMPILE_MODE_EAGER",
    "nequip.model.utils._TRAIN_TIME_COMPILE_KEY": "nequip_model.compile_modes.COMPILE_MODE_COMPILE",
    "nequip.scripts.train.main": "nequip_train.command.main",
    "nequip.scripts.package.main": "nequip_package.command.main",
    "nequip.scripts.compile.main": "nequip_compile.command.main",
}

DOCUMENTED_NAMES: dict[str, str] = {
    **{
        f"{parent}.{name}": f"{module}.{name}"
        for parent, modules in _TABLE.items()
        for module, names in modules.items()
        for name in names
    },
    **_RENAMED,
}
"""Every documented name that this version provides, with the dotted path of our object."""


def canonical_name(path: str) -> str:
    """Return the dotted path of our object for a documented name, any other path unchanged.

    A path below a documented name (a classmethod, say) is carried along.
    """
    if path in DOCUMENTED_NAMES:
        return DOCUMENTED_NAMES[path]
    parent, _, tail = path.rpartition(".")
    if parent in DOCUMENTED_NAMES:
        return f"{DOCUMENTED_NAMES[parent]}.{tail}"
    return path


def facade_module(module: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__all__``, ``__getattr__`` and ``__dir__`` of a facade module.

    Args:
        module: the facade module's ``__name__``, e.g. ``nequip.model``.
    """
    prefix = f"{module}."
    names = sorted(
        name.removeprefix(prefix)
        for name in DOCUMENTED_NAMES
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    )

    def resolve(name: str) -> Any:
        path = DOCUMENTED_NAMES.get(f"{prefix}{name}")
        if path is None:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        owner, _, attribute = path.rpartition(".")
        parent = importlib.import_module(owner)
        if hasattr(parent, attribute):
            return getattr(parent, attribute)
        return importlib.import_module(path)

    return names, resolve, lambda: names
