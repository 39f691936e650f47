// The fast path of src/excitor/fast_path.py in one call: a key projection of a few tokens and the term of one adapter,
// as src/excitor/folded.py has it in some twenty operations.
//
// A decoded token costs the term next to no arithmetic. What takes time is coming back to cold code for every small
// operation, and finding out that nothing has changed since the last token, so both are done here.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <ATen/ops/linear.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

namespace {

namespace py = pybind11;
using at::Tensor;

// A dictionary, a name and what it has to hold under it; None stands for nothing too.
using Watched = std::tuple<py::dict, py::str, py::object>;

// A parameter, its version and its address.
using Versioned = std::tuple<Tensor, int64_t, int64_t>;

// Tensors that come with more than these are watched, traced, batched or otherwise not what they seem.
const c10::DispatchKeySet kPlain({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                  c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutocastCPU});

bool within(c10::DispatchKeySet keys, c10::DispatchKeySet known) { return !(keys.raw_repr() & ~known.raw_repr()); }

// What an adapter of one layer folds to, all in fp32 and contiguous: a (r, C), transposed, scores (r, G * J), values (G, J, d),
// null_bias (G). J counts one row for each global prompt, and behind them r for each local one.
struct Folded {
  Tensor a, scores, values;
  std::optional<Tensor> null_bias;
  int64_t prompts, local_prompts;
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
  at::parallel_for(0, tokens, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> row(features), z(folded.a.size(0)), scores(heads * rows), weights(rows), term(head_dim);
    for (int64_t n = begin; n < end; ++n) {
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
  });
}

class Decoder {
 public:
  // `state` is what the layer itself has to hold. `weight` and `bias` are the key projection's, which is this linear
  // map and nothing else while the dictionaries of hooks in `silent` are empty.
  Decoder(py::dict state, std::vector<Watched> watched, std::vector<py::dict> silent,
          std::vector<Versioned> parameters, Tensor weight, std::optional<Tensor> bias, Folded folded,
          int64_t most_tokens)
      : state_(std::move(state)),
        watched_(std::move(watched)),
        silent_(std::move(silent)),
        parameters_(std::move(parameters)),
        weight_(std::move(weight)),
        bias_(std::move(bias)),
        folded_(std::move(folded)),
        most_tokens_(most_tokens) {}

  // The key with the term for x (..., C). None where something has changed, gradients or autocast are on, or the
  // input is nothing for this: then the layer takes its ordinary way.
  std::optional<Tensor> operator()(py::handle input, py::handle now) const {
    if (!THPVariable_CheckExact(input.ptr())) return std::nullopt;
    const Tensor& x = THPVariable_Unpack(input.ptr());
    if (at::GradMode::is_enabled() || at::autocast::is_autocast_enabled(at::kCPU) || !fits(x) || !unchanged(now)) {
      return std::nullopt;
    }
    py::gil_scoped_release release;
    Tensor key = at::linear(x, weight_, bias_).contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, key.scalar_type(), "excite", [&] {
      excite(folded_, x.const_data_ptr<scalar_t>(), key.mutable_data_ptr<scalar_t>(), x.numel() / x.size(-1));
    });
    return key;
  }

 private:
  bool fits(const Tensor& x) const {
    const auto included = c10::impl::tls_local_dispatch_key_set().included_;
    return within(included, c10::default_included_set) && within(x.key_set(), kPlain) && x.is_contiguous() &&
           x.scalar_type() == weight_.scalar_type() && x.dim() > 0 && x.size(-1) == folded_.a.size(1) &&
           x.numel() <= most_tokens_ * x.size(-1);
  }

  bool unchanged(py::handle now) const {
    PyObject *name, *value;
    for (Py_ssize_t position = 0; PyDict_Next(state_.ptr(), &position, &name, &value);) {
      if (PyDict_GetItem(now.ptr(), name) != value) return false;
    }
    for (const auto& [owner, name, value] : watched_) {
      const PyObject* found = PyDict_GetItem(owner.ptr(), name.ptr());
      if (found != value.ptr() && !(found == nullptr && value.is_none())) return false;
    }
    for (const auto& hooks : silent_) {
      if (PyDict_Size(hooks.ptr()) != 0) return false;
    }
    for (const auto& [parameter, version, address] : parameters_) {
      if (static_cast<int64_t>(parameter._version()) != version) return false;
      if (reinterpret_cast<int64_t>(parameter.const_data_ptr()) != address) return false;
    }
    return true;
  }

  py::dict state_;
  std::vector<Watched> watched_;
  std::vector<py::dict> silent_;
  std::vector<Versioned> parameters_;
  Tensor weight_;
  std::optional<Tensor> bias_;
  Folded folded_;
  int64_t most_tokens_;
};

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  py::class_<Folded>(module, "Folded")
      .def(py::init<Tensor, Tensor, Tensor, std::optional<Tensor>, int64_t, int64_t>());
  py::class_<Decoder>(module, "Decoder")
      .def(py::init<py::dict, std::vector<Watched>, std::vector<py::dict>, std::vector<Versioned>, Tensor,
                    std::optional<Tensor>, Folded, int64_t>())
      .def("__call__", &Decoder::operator());
}
