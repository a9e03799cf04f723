// See model.h. The only file that includes torch.
//
// SPDX-License-Identifier: GPL-2.0-only

#include "model.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/cpu/Utils.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/cuda.h>
#include <torch/script.h>
#include <torch/version.h>

using Texts = std::unordered_map<std::string, std::string>;
using Names = std::vector<std::string>;

namespace {

const Names CELL_INPUTS = {"pos", "edge_index", "atom_types", "cell", "edge_cell_shift"};
const Names GHOST_INPUTS = {"pos", "edge_index", "atom_types"};
const Names EDGE_INPUTS = {"edge_vectors", "edge_index", "atom_types", "owned_atoms"};
const char *const REQUIRED[] = {"r_max", "type_names", "num_types"};
// What TorchScript files may state; torch fills in only what is asked for.
const char *const SCRIPT_KEYS[] = {"r_max",         "type_names",    "num_types",
                                   "model_dtype",   "allow_tf32",    "per_edge_type_cutoff",
                                   "nequip_inputs", "nequip_outputs", "nequip_target",
                                   "nequip_custom_ops_libs"};

bool ends_with(const std::string &text, const std::string &end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Names words_of(const std::string &text) {
  std::istringstream stream(text);
  Names words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::string joined(const Names &names) {
  std::string text;
  for (const auto &name : names) text += (text.empty() ? "" : " ") + name;
  return text;
}

std::string first_lines(const std::string &text) {
  // What failed inside of TorchScript stands in the last line, after its stack.
  const auto raised = text.rfind("Error: ");
  if (text.find("Traceback of TorchScript") != std::string::npos && raised != std::string::npos)
    return first_lines(text.substr(raised + 7));
  // torch appends the stack of its own C++ code to what it says.
  std::istringstream stream(text);
  std::string result, line;
  while (std::getline(stream, line) && result.size() < 500) {
    if (line.rfind("Exception raised from", 0) == 0) break;
    if (!line.empty()) result += (result.empty() ? "" : " ") + line;
  }
  return result.empty() ? "unknown error" : result;
}

void tell(nequip::Problem *problem, const std::string &text) {
  std::strncpy(problem->text, text.c_str(), sizeof(problem->text) - 1);
  problem->text[sizeof(problem->text) - 1] = '\0';
}

std::string text_of(const Texts &texts, const char *key) {
  const auto found = texts.find(key);
  return found == texts.end() ? "" : found->second;
}

}  // namespace

namespace nequip {

struct Model {
  std::string path, device_name;
  Texts metadata;
  Contract contract = CELL;
  Names inputs, outputs;
  c10::Device device{c10::kCPU};
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> package;
  std::optional<torch::jit::script::Module> script;
};

}  // namespace nequip

using nequip::Model;

namespace {

c10::Device gpu(int rank) {
  const int count = static_cast<int>(torch::cuda::device_count());
  if (count == 0) throw std::runtime_error("the file is for GPUs, and torch finds none here");
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(rank % count));
}

// Instruction sets that the code of a file needs, as nequip-compile has recorded them.
void require_this_machine(const Texts &texts) {
  const std::string made_with = text_of(texts, "nequip_torch_version");
  const std::string here = std::to_string(TORCH_VERSION_MAJOR) + "." +
                           std::to_string(TORCH_VERSION_MINOR) + ".";
  if (!made_with.empty() && (made_with + ".").rfind(here, 0) != 0)
    throw std::runtime_error("it was compiled with torch " + made_with + ", the plugin runs torch " +
                             TORCH_VERSION + "; compile the model again here");
  const auto offered = at::cpu::get_cpu_capabilities();
  for (const auto &name : words_of(text_of(texts, "nequip_cpu_features"))) {
    const auto found = offered.find(name);
    if (found != offered.end() && found->second.isBool() && !found->second.toBool())
      throw std::runtime_error("it was compiled for a processor with " + name +
                               ", which this one does not have; compile the model again here");
  }
}

void open_package(Model &model, int rank) {
  using torch::inductor::AOTIModelPackageLoader;
  // Read before any native code of the file is loaded.
  model.metadata = AOTIModelPackageLoader::load_metadata_from_package(model.path, "model");
  require_this_machine(model.metadata);
  const bool on_gpu = text_of(model.metadata, "AOTI_DEVICE_KEY") == "cuda";
  model.device = on_gpu ? gpu(rank) : c10::Device(c10::kCPU);
  const auto index = static_cast<c10::DeviceIndex>(on_gpu ? model.device.index() : -1);
  model.package = std::make_unique<AOTIModelPackageLoader>(model.path, "model", false, 1, index);
  model.inputs = words_of(text_of(model.metadata, "nequip_aoti_inputs"));
  model.outputs = words_of(text_of(model.metadata, "nequip_aoti_outputs"));
}

void open_script(Model &model, bool ghosts, int rank) {
  for (const char *key : SCRIPT_KEYS) model.metadata[key] = "";
  model.device = torch::cuda::device_count() > 0 ? gpu(rank) : c10::Device(c10::kCPU);
  auto script = torch::jit::load(model.path, model.device, model.metadata);
  script.eval();
  model.script = torch::jit::freeze(script);
  model.outputs = words_of(text_of(model.metadata, "nequip_outputs"));
  if (model.outputs.empty()) model.outputs = {"atomic_energy", "forces", "virial"};
  const Names stated = words_of(text_of(model.metadata, "nequip_inputs"));
  // One file serves every contract without gradients by edge: what is left out is filled in.
  const bool by_edges =
      std::find(stated.begin(), stated.end(), "edge_vectors") != stated.end();
  model.inputs = by_edges ? stated : (ghosts ? GHOST_INPUTS : CELL_INPUTS);
}

nequip::Contract recognized(const Model &model) {
  if (model.inputs == CELL_INPUTS) return nequip::CELL;
  if (model.inputs == GHOST_INPUTS) return nequip::GHOSTS;
  if (model.inputs == EDGE_INPUTS) return nequip::EDGES;
  throw std::runtime_error("it takes the inputs '" + joined(model.inputs) +
                           "', which no pair style gives; compile it with --target lammps");
}

void require_outputs(const Model &model) {
  const Names needed = model.contract == nequip::EDGES
                           ? Names{"atomic_energy", "edge_forces"}
                           : Names{"atomic_energy", "forces", "virial"};
  for (const auto &name : needed)
    if (std::find(model.outputs.begin(), model.outputs.end(), name) == model.outputs.end())
      throw std::runtime_error("it does not return '" + name + "', only '" +
                               joined(model.outputs) + "'; compile it with --target lammps");
}

void require_metadata(const Model &model) {
  for (const char *key : REQUIRED)
    if (text_of(model.metadata, key).empty())
      throw std::runtime_error(std::string("its metadata lack '") + key +
                               "': it was not made by nequip-compile; compile the model with it");
}

torch::Tensor floats(const double *data, std::vector<int64_t> shape, const c10::Device &device) {
  // The memory is that of the caller, who gets it back before it changes.
  auto whole = torch::from_blob(const_cast<double *>(data), shape, torch::kFloat64);
  return device.is_cpu() ? whole : whole.to(device);
}

torch::Tensor integers(const int64_t *data, std::vector<int64_t> shape, const c10::Device &device) {
  auto whole = torch::from_blob(const_cast<int64_t *>(data), shape, torch::kInt64);
  return device.is_cpu() ? whole : whole.to(device);
}

torch::Tensor input(const std::string &name, const nequip::Graph &g, const c10::Device &device) {
  if (name == "pos") return floats(g.positions, {g.nodes, 3}, device);
  if (name == "edge_index") return integers(g.edge_index, {2, g.edges}, device);
  if (name == "atom_types") return integers(g.types, {g.nodes}, device);
  if (name == "cell") return floats(g.cell, {1, 3, 3}, device);
  if (name == "edge_cell_shift") return floats(g.shifts, {g.edges, 3}, device);
  if (name == "edge_vectors") return floats(g.vectors, {g.edges, 3}, device);
  return floats(g.owned, {g.nodes}, device);
}

// Copy an output to where it is wanted.
void copy(const std::string &name, const torch::Tensor &found, int64_t numbers, double *wanted) {
  if (wanted == nullptr) return;
  const auto values = found.detach().to(torch::kCPU, torch::kFloat64).contiguous();
  if (values.numel() != numbers)
    throw std::runtime_error("its output '" + name + "' has " + std::to_string(values.numel()) +
                             " numbers in place of " + std::to_string(numbers));
  std::copy_n(values.data_ptr<double>(), numbers, wanted);
}

double *place_of(const std::string &name, const nequip::Results &results) {
  if (name == "atomic_energy") return results.energies;
  if (name == "forces") return results.forces;
  if (name == "virial") return results.virial;
  if (name == "atomic_virial") return results.atomic_virials;
  if (name == "edge_forces") return results.edge_gradients;
  return nullptr;
}

int64_t size_of(const std::string &name, const nequip::Graph &g) {
  if (name == "atomic_energy") return g.nodes;
  if (name == "forces") return 3 * g.nodes;
  if (name == "virial") return 9;
  if (name == "atomic_virial") return 9 * g.nodes;
  return 3 * g.edges;
}

void evaluate(Model &model, const nequip::Graph &graph, const nequip::Results &results) {
  std::vector<torch::Tensor> tensors;
  for (const auto &name : model.inputs) tensors.push_back(input(name, graph, model.device));
  if (model.script) {
    c10::Dict<std::string, torch::Tensor> fields;
    for (size_t at = 0; at < tensors.size(); ++at) fields.insert(model.inputs[at], tensors[at]);
    const auto found = model.script->forward({fields}).toGenericDict();
    for (const auto &item : found) {
      const std::string name = item.key().toStringRef();
      if (double *place = place_of(name, results))
        copy(name, item.value().toTensor(), size_of(name, graph), place);
    }
    return;
  }
  const auto found = model.package->run(tensors);
  if (found.size() != model.outputs.size())
    throw std::runtime_error("its metadata contradict its code; compile the model again");
  for (size_t at = 0; at < found.size(); ++at) {
    const auto &name = model.outputs[at];
    if (double *place = place_of(name, results)) copy(name, found[at], size_of(name, graph), place);
  }
}

}  // namespace

namespace nequip {

Model *open_model(const char *path, bool ghosts, int rank, Problem *problem) {
  problem->text[0] = '\0';
  auto model = std::make_unique<Model>();
  try {
    model->path = path;
    if (ends_with(model->path, ".nequip.pt2"))
      open_package(*model, rank);
    else if (ends_with(model->path, ".nequip.pth"))
      open_script(*model, ghosts, rank);
    else
      throw std::runtime_error("the name of a compiled model ends in .nequip.pt2 or .nequip.pth");
    require_metadata(*model);
    model->contract = recognized(*model);
    require_outputs(*model);
    model->device_name = model->device.str();
    return model.release();
  } catch (const std::exception &error) {
    const std::string text = first_lines(error.what());
    tell(problem, "cannot use the model '" + std::string(path) + "': " + text);
  } catch (...) {
    tell(problem, "cannot use the model '" + std::string(path) + "': unknown error");
  }
  return nullptr;
}

void close_model(Model *model) { delete model; }

Contract contract_of(const Model *model) { return model->contract; }

bool has_atomic_virials(const Model *model) {
  const auto &names = model->outputs;
  return std::find(names.begin(), names.end(), "atomic_virial") != names.end();
}

const char *device_of(const Model *model) { return model->device_name.c_str(); }

const char *metadata_of(const Model *model, const char *key) {
  const auto found = model->metadata.find(key);
  if (found == model->metadata.end() || found->second.empty()) return nullptr;
  return found->second.c_str();
}

bool run_model(Model *model, const Graph *graph, const Results *results, Problem *problem) {
  problem->text[0] = '\0';
  try {
    c10::InferenceMode guard(!model->script);
    evaluate(*model, *graph, *results);
    return true;
  } catch (const std::exception &error) {
    tell(problem, "the model '" + model->path + "' failed: " + first_lines(error.what()));
  } catch (...) {
    tell(problem, "the model '" + model->path + "' failed: unknown error");
  }
  return false;
}

}  // namespace nequip
