// A C++ engine's part that runs a compiled file, with libtorch alone:
//
//     stock_client FILE INPUTS OUTPUTS
//
// INPUTS is a dictionary of tensors as torch.save writes it. OUTPUTS gets the dictionary that comes
// back and the metadata as the numbers that an engine reads from them.

#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

using Fields = c10::Dict<std::string, torch::Tensor>;
using Texts = std::unordered_map<std::string, std::string>;

bool ends_with(const std::string &text, const std::string &end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

Fields read_fields(const char *path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Fields fields;
  for (const auto &item : torch::jit::pickle_load(bytes).toGenericDict())
    fields.insert(item.key().toStringRef(), item.value().toTensor());
  return fields;
}

Fields run_script(const std::string &path, const Fields &inputs, Texts &metadata) {
  for (const char *key :
       {"r_max", "per_edge_type_cutoff", "type_names", "num_types", "allow_tf32"})
    metadata[key] = "";
  auto model = torch::jit::load(path, torch::kCPU, metadata);
  model.eval();
  model = torch::jit::freeze(model);
  const auto outputs = model.forward({inputs}).toGenericDict();
  Fields fields;
  for (const auto &item : outputs)
    fields.insert(item.key().toStringRef(), item.value().toTensor().detach());
  return fields;
}

Fields run_package(const std::string &path, const Fields &inputs, Texts &metadata) {
  c10::InferenceMode guard;
  torch::inductor::AOTIModelPackageLoader loader(path);
  metadata = loader.get_metadata();
  std::vector<torch::Tensor> arguments;
  std::string name;
  std::istringstream in(metadata.at("nequip_aoti_inputs"));
  while (in >> name) arguments.push_back(inputs.at(name));
  const auto results = loader.run(arguments);
  std::istringstream out(metadata.at("nequip_aoti_outputs"));
  Fields fields;
  for (size_t at = 0; out >> name; ++at) fields.insert(name, results.at(at).clone());
  return fields;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  const std::string path = argv[1];
  const Fields inputs = read_fields(argv[2]);
  Texts metadata;
  const Fields found = ends_with(path, ".nequip.pth") ? run_script(path, inputs, metadata)
                                                      : run_package(path, inputs, metadata);
  std::vector<double> numbers = {std::stod(metadata.at("r_max")),
                                 double(std::stoi(metadata.at("num_types"))),
                                 double(std::stoi(metadata.at("allow_tf32")))};
  std::istringstream cutoffs(metadata["per_edge_type_cutoff"]);
  for (double cutoff; cutoffs >> cutoff;) numbers.push_back(cutoff);
  c10::Dict<std::string, torch::Tensor> answer;
  for (const auto &item : found) answer.insert(item.key(), item.value());
  answer.insert("metadata", torch::tensor(numbers, torch::kFloat64));
  const std::vector<char> bytes = torch::jit::pickle_save(answer);
  std::ofstream(argv[3], std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
  return 0;
}
