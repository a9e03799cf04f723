// How a file compiled by AOTInductor calls the kernels that are linked into it: by torch's stable C
// interface alone, so that the file runs wherever it can be loaded.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <cstring>
#include <vector>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

inline int threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

// A tensor as the kernels read it: row after row. Others are copied.
template <class T> struct Rows {
  std::int64_t rows = 0, columns = 1;
  const T* data = nullptr;
  std::vector<T> copy;

  bool read(AtenTensorHandle tensor, bool matrix) {
    std::int64_t *sizes, *strides;
    void* pointer;
    if (aoti_torch_get_sizes(tensor, &sizes) || aoti_torch_get_strides(tensor, &strides) ||
        aoti_torch_get_data_ptr(tensor, &pointer))
      return false;
    rows = sizes[0];
    columns = matrix ? sizes[1] : 1;
    data = static_cast<const T*>(pointer);
    const std::int64_t down = strides[0], right = matrix ? strides[1] : 1;
    if ((down == columns || rows < 2) && (right == 1 || columns < 2)) return true;
    copy.resize(rows * columns);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        copy[r * columns + c] = data[r * down + c * right];
    data = copy.data();
    return true;
  }
};

inline bool is_double(AtenTensorHandle tensor) {
  std::int32_t dtype = 0;
  return !aoti_torch_get_dtype(tensor, &dtype) && dtype == aoti_torch_dtype_float64();
}

// A new tensor, row after row; null if it cannot be made.
template <class T>
T* made(int axes, const std::int64_t* sizes, const std::int64_t* strides,
        AtenTensorHandle* result) {
  const std::int32_t dtype =
      sizeof(T) == 8 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32();
  void* pointer;
  if (aoti_torch_empty_strided(axes, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(*result, &pointer))
    return nullptr;
  return static_cast<T*>(pointer);
}

template <class T> T* made(std::int64_t rows, std::int64_t columns, AtenTensorHandle* result) {
  const std::int64_t sizes[] = {rows, columns}, strides[] = {columns, 1};
  return made<T>(2, sizes, strides, result);
}

template <class T> T* made(std::int64_t rows, AtenTensorHandle* result) {
  const std::int64_t one = 1;
  return made<T>(1, &rows, &one, result);
}

template <class T> struct Kernel {
  const char* signature;
  std::int64_t num_in, num_sh, num_out, num_weights;
  int (*forward)(std::int64_t, std::int64_t, const T*, const T*, const T*, const std::int64_t*,
                 const std::int64_t*, T*, int);
  int (*by_features)(std::int64_t, std::int64_t, const T*, const T*, const T*, const std::int64_t*,
                     const std::int64_t*, T*, int);
  int (*by_edges)(std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,
                  const std::int64_t*, const std::int64_t*, T*, T*, int);
  int (*radial_forward)(std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,
                        std::int64_t, const std::int64_t*, const std::int64_t*, T*, int);
  int (*radial_backward)(std::int64_t, std::int64_t, const T*, const T*, const T*, const T*,
                         const T*, std::int64_t, const std::int64_t*, const std::int64_t*, T*, T*,
                         T*, int);
  int (*table_forward)(std::int64_t, std::int64_t, const T*, const T*, const double*, const T*,
                       std::int64_t, const std::int64_t*, const std::int64_t*, T*, int);
  int (*table_backward)(std::int64_t, std::int64_t, const T*, const T*, const T*, const double*,
                        const T*, std::int64_t, const std::int64_t*, const std::int64_t*, T*, T*,
                        double*, int);
};

// The kernel of a signature, null if this file has none; the second argument tells the type.
const Kernel<float>* find(const char* signature, float);
const Kernel<double>* find(const char* signature, double);

template <class T> struct Edges {
  const Kernel<T>* kernel = nullptr;
  Rows<T> harmonics, weights;
  Rows<std::int64_t> centre, neighbour;

  bool read(AtenTensorHandle y, AtenTensorHandle w, AtenTensorHandle c, AtenTensorHandle n,
            const char* signature) {
    kernel = find(signature, T());
    return kernel && harmonics.read(y, true) && weights.read(w, true) && centre.read(c, false) &&
           neighbour.read(n, false) && harmonics.columns == kernel->num_sh &&
           weights.columns == kernel->num_weights && harmonics.rows == weights.rows &&
           centre.rows == weights.rows && neighbour.rows == weights.rows;
  }
};

template <class T>
AOTITorchError one_of_nodes(bool forward, AtenTensorHandle node, AtenTensorHandle y,
                            AtenTensorHandle w, AtenTensorHandle c, AtenTensorHandle n,
                            const char* signature, AtenTensorHandle* result) {
  Edges<T> edges;
  Rows<T> given;
  if (!edges.read(y, w, c, n, signature) || !given.read(node, true)) return 1;
  const Kernel<T>& kernel = *edges.kernel;
  if (given.columns != (forward ? kernel.num_in : kernel.num_out)) return 1;
  T* out = made<T>(given.rows, forward ? kernel.num_out : kernel.num_in, result);
  if (!out) return 1;
  return (forward ? kernel.forward : kernel.by_features)(
      given.rows, edges.weights.rows, given.data, edges.harmonics.data, edges.weights.data,
      edges.centre.data, edges.neighbour.data, out, threads());
}

template <class T>
AOTITorchError of_edges(AtenTensorHandle gradient, AtenTensorHandle features, AtenTensorHandle y,
                        AtenTensorHandle w, AtenTensorHandle c, AtenTensorHandle n,
                        const char* signature, AtenTensorHandle* by_y, AtenTensorHandle* by_w) {
  Edges<T> edges;
  Rows<T> g, x;
  if (!edges.read(y, w, c, n, signature) || !g.read(gradient, true) || !x.read(features, true))
    return 1;
  const Kernel<T>& kernel = *edges.kernel;
  if (g.columns != kernel.num_out || x.columns != kernel.num_in || g.rows != x.rows) return 1;
  const std::int64_t rows = edges.weights.rows;
  AtenTensorHandle unwanted = nullptr;
  T* gy = made<T>(rows, kernel.num_sh, by_y ? by_y : &unwanted);
  AtenTensorHandle unwanted_too = nullptr;
  T* gw = made<T>(rows, kernel.num_weights, by_w ? by_w : &unwanted_too);
  const AOTITorchError code =
      gy && gw ? kernel.by_edges(g.rows, rows, g.data, x.data, edges.harmonics.data,
                                 edges.weights.data, edges.centre.data, edges.neighbour.data, gy,
                                 gw, threads())
               : 1;
  if (unwanted) aoti_torch_delete_tensor_object(unwanted);
  if (unwanted_too) aoti_torch_delete_tensor_object(unwanted_too);
  return code;
}

// The edges of functions that make the weights: of hidden columns and a matrix (S is T), or of
// places in a table and its rows (S is double).
template <class T, class S> struct InsideEdges {
  const Kernel<T>* kernel = nullptr;
  Rows<T> harmonics, matrix;
  Rows<S> of;
  Rows<std::int64_t> centre, neighbour;

  bool read(AtenTensorHandle y, AtenTensorHandle h, AtenTensorHandle m, AtenTensorHandle c,
            AtenTensorHandle n, bool table, const char* signature) {
    kernel = find(signature, T());
    return kernel && harmonics.read(y, true) && of.read(h, !table) && matrix.read(m, true) &&
           centre.read(c, false) && neighbour.read(n, false) &&
           harmonics.columns == kernel->num_sh && matrix.columns == kernel->num_weights &&
           (table ? matrix.rows >= 6 && matrix.rows % 3 == 0 : matrix.rows == of.columns) &&
           harmonics.rows == of.rows && centre.rows == of.rows && neighbour.rows == of.rows;
  }
};

template <class T>
AOTITorchError radial(AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle h,
                      AtenTensorHandle m, AtenTensorHandle c, AtenTensorHandle n,
                      const char* signature, AtenTensorHandle* result) {
  InsideEdges<T, T> edges;
  Rows<T> x;
  if (!edges.read(y, h, m, c, n, false, signature) || !x.read(features, true)) return 1;
  const Kernel<T>& kernel = *edges.kernel;
  T* out = x.columns == kernel.num_in ? made<T>(x.rows, kernel.num_out, result) : nullptr;
  if (!out) return 1;
  return kernel.radial_forward(x.rows, edges.of.rows, x.data, edges.harmonics.data, edges.of.data,
                               edges.matrix.data, edges.of.columns, edges.centre.data,
                               edges.neighbour.data, out, threads());
}

template <class T>
AOTITorchError table(AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle p,
                     AtenTensorHandle rows, AtenTensorHandle c, AtenTensorHandle n,
                     const char* signature, AtenTensorHandle* result) {
  InsideEdges<T, double> edges;
  Rows<T> x;
  if (!edges.read(y, p, rows, c, n, true, signature) || !x.read(features, true)) return 1;
  const Kernel<T>& kernel = *edges.kernel;
  T* out = x.columns == kernel.num_in ? made<T>(x.rows, kernel.num_out, result) : nullptr;
  if (!out) return 1;
  return kernel.table_forward(x.rows, edges.of.rows, x.data, edges.harmonics.data, edges.of.data,
                              edges.matrix.data, edges.matrix.rows / 3 - 1, edges.centre.data,
                              edges.neighbour.data, out, threads());
}

// The gradients by features, harmonics and what the weights are made of.
template <class T> struct Gradients {
  AtenTensorHandle unwanted[3] = {nullptr, nullptr, nullptr};
  T *gx, *gy;

  Gradients(std::int64_t nodes, std::int64_t edges, const Kernel<T>& kernel,
            AtenTensorHandle* by_x, AtenTensorHandle* by_y)
      : gx(made<T>(nodes, kernel.num_in, by_x ? by_x : unwanted)),
        gy(made<T>(edges, kernel.num_sh, by_y ? by_y : unwanted + 1)) {}
  // Results that nobody asks for are made and let go.
  ~Gradients() {
    for (AtenTensorHandle one : unwanted)
      if (one) aoti_torch_delete_tensor_object(one);
  }
};

template <class T>
AOTITorchError radial_backward(AtenTensorHandle gradient, AtenTensorHandle features,
                               AtenTensorHandle y, AtenTensorHandle h, AtenTensorHandle m,
                               AtenTensorHandle c, AtenTensorHandle n, const char* signature,
                               AtenTensorHandle* by_x, AtenTensorHandle* by_y,
                               AtenTensorHandle* by_h) {
  InsideEdges<T, T> edges;
  Rows<T> g, x;
  if (!edges.read(y, h, m, c, n, false, signature) || !g.read(gradient, true) ||
      !x.read(features, true))
    return 1;
  const Kernel<T>& kernel = *edges.kernel;
  if (g.columns != kernel.num_out || x.columns != kernel.num_in || g.rows != x.rows) return 1;
  const std::int64_t rows = edges.of.rows, columns = edges.of.columns;
  Gradients<T> made_here(x.rows, rows, kernel, by_x, by_y);
  T* gh = made<T>(rows, columns, by_h ? by_h : made_here.unwanted + 2);
  if (!made_here.gx || !made_here.gy || !gh) return 1;
  return kernel.radial_backward(x.rows, rows, g.data, x.data, edges.harmonics.data, edges.of.data,
                                edges.matrix.data, columns, edges.centre.data,
                                edges.neighbour.data, made_here.gx, made_here.gy, gh, threads());
}

template <class T>
AOTITorchError table_backward(AtenTensorHandle gradient, AtenTensorHandle features,
                              AtenTensorHandle y, AtenTensorHandle p, AtenTensorHandle m,
                              AtenTensorHandle c, AtenTensorHandle n, const char* signature,
                              AtenTensorHandle* by_x, AtenTensorHandle* by_y,
                              AtenTensorHandle* by_p) {
  InsideEdges<T, double> edges;
  Rows<T> g, x;
  if (!edges.read(y, p, m, c, n, true, signature) || !g.read(gradient, true) ||
      !x.read(features, true))
    return 1;
  const Kernel<T>& kernel = *edges.kernel;
  if (g.columns != kernel.num_out || x.columns != kernel.num_in || g.rows != x.rows) return 1;
  const std::int64_t rows = edges.of.rows;
  Gradients<T> made_here(x.rows, rows, kernel, by_x, by_y);
  double* gp = made<double>(rows, by_p ? by_p : made_here.unwanted + 2);
  if (!made_here.gx || !made_here.gy || !gp) return 1;
  return kernel.table_backward(x.rows, rows, g.data, x.data, edges.harmonics.data, edges.of.data,
                               edges.matrix.data, edges.matrix.rows / 3 - 1, edges.centre.data,
                               edges.neighbour.data, made_here.gx, made_here.gy, gp, threads());
}

}  // namespace

extern "C" {

AOTITorchError aoti_torch_cpu_nequip_convolution(
    AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle w, AtenTensorHandle c,
    AtenTensorHandle n, const char* signature, AtenTensorHandle* result) {
  const auto call = is_double(features) ? one_of_nodes<double> : one_of_nodes<float>;
  return call(true, features, y, w, c, n, signature, result);
}

AOTITorchError aoti_torch_cpu_nequip_convolution_by_features(
    AtenTensorHandle gradient, AtenTensorHandle y, AtenTensorHandle w, AtenTensorHandle c,
    AtenTensorHandle n, const char* signature, AtenTensorHandle* result) {
  const auto call = is_double(gradient) ? one_of_nodes<double> : one_of_nodes<float>;
  return call(false, gradient, y, w, c, n, signature, result);
}

AOTITorchError aoti_torch_cpu_nequip_convolution_by_edges(
    AtenTensorHandle gradient, AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle w,
    AtenTensorHandle c, AtenTensorHandle n, const char* signature, AtenTensorHandle* by_y,
    AtenTensorHandle* by_w) {
  const auto call = is_double(gradient) ? of_edges<double> : of_edges<float>;
  return call(gradient, features, y, w, c, n, signature, by_y, by_w);
}

AOTITorchError aoti_torch_cpu_nequip_radial_convolution(
    AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle h, AtenTensorHandle m,
    AtenTensorHandle c, AtenTensorHandle n, const char* signature, AtenTensorHandle* result) {
  const auto call = is_double(features) ? radial<double> : radial<float>;
  return call(features, y, h, m, c, n, signature, result);
}

AOTITorchError aoti_torch_cpu_nequip_radial_convolution_backward(
    AtenTensorHandle gradient, AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle h,
    AtenTensorHandle m, AtenTensorHandle c, AtenTensorHandle n, const char* signature,
    AtenTensorHandle* by_x, AtenTensorHandle* by_y, AtenTensorHandle* by_h) {
  const auto call = is_double(gradient) ? radial_backward<double> : radial_backward<float>;
  return call(gradient, features, y, h, m, c, n, signature, by_x, by_y, by_h);
}

AOTITorchError aoti_torch_cpu_nequip_table_convolution(
    AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle p, AtenTensorHandle rows,
    AtenTensorHandle c, AtenTensorHandle n, const char* signature, AtenTensorHandle* result) {
  const auto call = is_double(features) ? table<double> : table<float>;
  return call(features, y, p, rows, c, n, signature, result);
}

AOTITorchError aoti_torch_cpu_nequip_table_convolution_backward(
    AtenTensorHandle gradient, AtenTensorHandle features, AtenTensorHandle y, AtenTensorHandle p,
    AtenTensorHandle rows, AtenTensorHandle c, AtenTensorHandle n, const char* signature,
    AtenTensorHandle* by_x, AtenTensorHandle* by_y, AtenTensorHandle* by_p) {
  const auto call = is_double(gradient) ? table_backward<double> : table_backward<float>;
  return call(gradient, features, y, p, rows, c, n, signature, by_x, by_y, by_p);
}

}  // extern "C"
