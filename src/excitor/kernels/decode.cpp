// The fast path of src/excitor/fast_path.py in one call: a key projection of a few tokens and the term of one adapter,
// as src/excitor/folded.py has it in some twenty operations.
//
// A decoded token costs the term next to no arithmetic. What takes time is coming back to cold code for every small
// operation, and finding out that nothing has changed since the last token, so both are done here.

#include <ATen/Dispatch.h>
#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

namespace {

namespace py = pybind11;
using at::Tensor;

// Tensors that come with more than these are watched, traced, batched or otherwise not what they seem.
const c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                  c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutocastCPU});

bool within(c10::DispatchKeySet keys, c10::DispatchKeySet known) { return !(keys.raw_repr() & ~known.raw_repr()); }

// What an adapter of one layer folds to, all in fp32 and contiguous: a (r, C), transposed, scores (r, G * J), values (G, J, d),
// null_bias (G). J counts one row for each global prompt, and behind them r for each local one.
struct Folded {
  Tensor a, scores, values;
  std::optional<Tensor> null_bias;
  int64_t prompts, local_prompts, most_tokens;
};

// out = matrix @ row: few products, each of a long row.
void project_long(const std::vector<float>& row, const float* matrix, std::vector<float>& out) {
  const int64_t length = row.size(), rows = out.size();
  for (int64_t i = 0; i < rows; ++i) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < length; ++j) sum += row[j] * matrix[i * length + j];
    out[i] = sum;
  }
}

// out = row @ matrix for `kColumns` of its columns, whose sums stay in registers.
template <int64_t kColumns>
void project_columns(const float* row, int64_t length, const float* matrix, int64_t stride, float* out) {
  float sums[kColumns] = {};
  for (int64_t i = 0; i < length; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      sums[j] += row[i] * matrix[i * stride + j];
    }
  }
  std::copy(sums, sums + kColumns, out);
}

void project(const std::vector<float>& row, const float* matrix, std::vector<float>& out) {
  const int64_t length = row.size(), columns = out.size();
  int64_t j = 0;
  for (; j + 64 <= columns; j += 64) project_columns<64>(row.data(), length, matrix + j, columns, out.data() + j);
  for (; j + 8 <= columns; j += 8) project_columns<8>(row.data(), length, matrix + j, columns, out.data() + j);
  for (; j < columns; ++j) project_columns<1>(row.data(), length, matrix + j, columns, out.data() + j);
}

// What each row of a head's values is multiplied by: the softmax over all prompts, for local prompts times z.
void weigh(const Folded& folded, int64_t head, const std::vector<float>& z, const float* scores,
           std::vector<float>& weights) {
  const int64_t rank = z.size(), prompts = folded.prompts, rows = weights.size();
  const float null_score = folded.null_bias ? folded.null_bias->const_data_ptr<float>()[head] : -INFINITY;
  float highest = null_score;
  for (int64_t k = 0; k < prompts; ++k) {
    highest = std::max(highest, weights[k] = scores[k]);
  }
  for (int64_t row = prompts; row < rows; row += rank) {
    float score = 0;
    for (int64_t j = 0; j < rank; ++j) score += scores[row + j] * z[j];
    highest = std::max(highest, weights[row] = score);
  }
  float total = std::exp(null_score - highest);
  for (int64_t k = 0; k < prompts; ++k) {
    total += weights[k] = std::exp(weights[k] - highest);
  }
  for (int64_t row = prompts; row < rows; row += rank) {
    const float weight = std::exp(weights[row] - highest);
    total += weight;
    for (int64_t j = 0; j < rank; ++j) weights[row + j] = weight * z[j];
  }
  for (float& weight : weights) weight /= total;
}

// Adds the term of x (tokens, C) to the key (tokens, G * d), in its dtype.
template <typename T>
void excite(const Folded& folded, const T* x, T* key, int64_t tokens) {
  const int64_t features = folded.a.size(1), heads = folded.values.size(0);
  const int64_t rows = folded.values.size(1), head_dim = folded.values.size(2);
  std::vector<float> row(features), z(folded.a.size(0)), scores(heads * rows), weights(rows), term(head_dim);
  for (int64_t n = 0; n < tokens; ++n) {
    std::copy(x + n * features, x + (n + 1) * features, row.begin());
    project_long(row, folded.a.const_data_ptr<float>(), z);
    project(z, folded.scores.const_data_ptr<float>(), scores);
    for (int64_t head = 0; head < heads; ++head) {
      weigh(folded, head, z, scores.data() + head * rows, weights);
      project(weights, folded.values.const_data_ptr<float>() + head * rows * head_dim, term);
      T* out = key + (n * heads + head) * head_dim;
      for (int64_t i = 0; i < head_dim; ++i) out[i] = out[i] + static_cast<T>(term[i]);
    }
  }
}

PyObject* item(PyObject* tuple, Py_ssize_t index) { return PyTuple_GET_ITEM(tuple, index); }

const Tensor& tensor(PyObject* object) { return THPVariable_Unpack(object); }

// Whether a dictionary holds this under a name; None stands for nothing too.
bool holds(PyObject* dictionary, PyObject* name, PyObject* value) {
  PyObject* found = PyDict_GetItemWithError(dictionary, name);
  if (found == nullptr && PyErr_Occurred()) throw py::error_already_set();
  return found == value || (found == nullptr && value == Py_None);
}

// Whether all is as it was: see src/excitor/fast_path.py for the first three and the parameters. The dictionaries of
// hooks in `silent` have to be empty, the projection of its class, and that to have its method.
bool is_unchanged(PyObject* unchanged, PyObject* now, PyObject* base) {
  static PyObject* const active_adapter = PyUnicode_InternFromString("_active_adapter");
  PyObject *state = item(unchanged, 0), *active = item(unchanged, 1), *watched = item(unchanged, 2);
  PyObject *silent = item(unchanged, 3), *parameters = item(unchanged, 4), *kind = item(unchanged, 5);
  PyObject *name, *value;
  for (Py_ssize_t position = 0; PyDict_Next(state, &position, &name, &value);) {
    if (!holds(now, name, value)) return false;
  }
  PyObject* found = PyDict_GetItemWithError(now, active_adapter);
  const int equal = found == nullptr ? 0 : PyObject_RichCompareBool(found, active, Py_EQ);
  if (equal < 0) throw py::error_already_set();
  if (equal == 0) return false;
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(watched); ++i) {
    PyObject* entry = PyList_GET_ITEM(watched, i);
    if (!holds(item(entry, 0), item(entry, 1), item(entry, 2))) return false;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(silent); ++i) {
    if (PyDict_Size(PyList_GET_ITEM(silent, i)) != 0) return false;
  }
  for (Py_ssize_t i = 0; i < PyList_GET_SIZE(parameters); ++i) {
    PyObject* entry = PyList_GET_ITEM(parameters, i);
    const Tensor& parameter = tensor(item(entry, 0));
    if (parameter._version() != PyLong_AsLongLong(item(entry, 1))) return false;
    if (reinterpret_cast<int64_t>(parameter.const_data_ptr()) != PyLong_AsLongLong(item(entry, 2))) return false;
  }
  if (reinterpret_cast<PyObject*>(Py_TYPE(base)) != item(kind, 0)) return false;
  const auto method = py::reinterpret_steal<py::object>(PyObject_GetAttr(item(kind, 0), item(kind, 1)));
  if (!method) throw py::error_already_set();
  return method.ptr() == item(kind, 2);
}

bool fits(const Folded& folded, const Tensor& x, const Tensor& weight) {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return !at::GradMode::is_enabled() && !at::autocast::is_autocast_enabled(at::kCPU) &&
         !at::impl::torch_function_mode_enabled() && within(included, c10::default_included_set) &&
         within(x.key_set(), kPlain) && x.is_contiguous() && x.scalar_type() == weight.scalar_type() &&
         !x._fw_grad(0).defined() && x.dim() > 0 && x.size(-1) == folded.a.size(1) &&
         x.numel() <= folded.most_tokens * x.size(-1) && weight.dim() == 2 &&
         weight.size(0) == folded.values.size(0) * folded.values.size(2);
}

// The key with the term for x (..., C). None where something has changed, gradients or autocast are on, or the input
// is nothing for this: then the layer takes its ordinary way.
std::optional<Tensor> decode(const Folded& folded, const py::tuple& unchanged, const py::handle& base,
                             const py::handle& base_weight, const py::handle& base_bias, const py::handle& input,
                             const py::dict& now) {
  if (!THPVariable_CheckExact(input.ptr())) return std::nullopt;
  const Tensor x = tensor(input.ptr()), weight = tensor(base_weight.ptr());
  const auto bias = base_bias.is_none() ? std::nullopt : std::make_optional(tensor(base_bias.ptr()));
  if (!fits(folded, x, weight) || !is_unchanged(unchanged.ptr(), now.ptr(), base.ptr())) return std::nullopt;
  py::gil_scoped_release release;
  const Tensor key = at::linear(x, weight, bias).contiguous();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, key.scalar_type(), "decode", [&] {
    excite(folded, x.const_data_ptr<scalar_t>(), key.mutable_data_ptr<scalar_t>(), x.numel() / x.size(-1));
  });
  return key;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Folded>(module, "Folded")
      .def(py::init<Tensor, Tensor, Tensor, std::optional<Tensor>, int64_t, int64_t, int64_t>());
  module.def("decode", &decode);
}
