// TensorFlow ops through TensorFlow's C API, whose functions keep their binary form from version to version.
#ifndef POSEKIT_TF_OPS_H_
#define POSEKIT_TF_OPS_H_

#if defined(__SANITIZE_THREAD__)
#define POSEKIT_THREAD_SANITIZER
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define POSEKIT_THREAD_SANITIZER
#endif
#endif
#if defined(POSEKIT_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "c_api.h"
#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

namespace posekit {

template <class T>
struct TypeOf;
template <>
struct TypeOf<float> : std::integral_constant<TF_DataType, TF_FLOAT> {};
template <>
struct TypeOf<double> : std::integral_constant<TF_DataType, TF_DOUBLE> {};
template <>
struct TypeOf<int32_t> : std::integral_constant<TF_DataType, TF_INT32> {};
template <>
struct TypeOf<int64_t> : std::integral_constant<TF_DataType, TF_INT64> {};
template <>
struct TypeOf<bool> : std::integral_constant<TF_DataType, TF_BOOL> {};

inline std::string text_of(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t axis = 0; axis < shape.size(); ++axis) text += (axis ? ", " : "") + std::to_string(shape[axis]);
  return text + "]";
}

// Bytes of an array of `width` bytes a number. TensorFlow ends the process where they cannot be counted.
inline size_t size_in_bytes(const std::vector<int64_t>& shape, int64_t width) {
  int64_t bytes = width;
  bool fits = true, empty = false;
  for (int64_t extent : shape) {
    fits = fits && extent >= 0 && !__builtin_mul_overflow(bytes, std::max<int64_t>(extent, 1), &bytes);
    empty = empty || extent == 0;
  }
  if (!fits) throw InvalidInput("there is no output of shape " + text_of(shape) + ": its size cannot be counted");
  return empty ? 0 : static_cast<size_t>(bytes);
}

// An input or output of one call of an op.
class Tensor {
 public:
  Tensor(TF_Tensor* tensor) : tensor_(tensor) {
    shape_.reserve(TF_NumDims(tensor));
    for (int axis = 0; axis < TF_NumDims(tensor); ++axis) shape_.push_back(TF_Dim(tensor, axis));
  }
  Tensor(Tensor&& other) : tensor_(other.tensor_), shape_(std::move(other.shape_)) { other.tensor_ = nullptr; }
  Tensor(const Tensor&) = delete;
  ~Tensor() {
    if (tensor_) TF_DeleteTensor(tensor_);
  }

  int rank() const { return static_cast<int>(shape_.size()); }
  int64_t dim(int axis) const { return shape_[axis]; }
  int64_t size() const {
    int64_t product = 1;
    for (int64_t extent : shape_) product *= extent;
    return product;
  }
  const std::vector<int64_t>& shape() const { return shape_; }
  std::string shape_text() const { return text_of(shape_); }
  // Rows of sliced tensors need not lie at multiples of more than their own size.
  template <class T>
  T* data() const {
    return static_cast<T*>(TF_TensorData(tensor_));
  }
  template <class T>
  T scalar() const {
    if (size() != 1) throw InvalidInput("a single number was expected, not shape " + shape_text());
    return *data<T>();
  }

 private:
  TF_Tensor* tensor_;
  std::vector<int64_t> shape_;
};

class Status {
 public:
  Status() : status_(TF_NewStatus()) {}
  ~Status() { TF_DeleteStatus(status_); }
  operator TF_Status*() { return status_; }
  bool ok() const { return TF_GetCode(status_) == TF_OK; }
  std::string message() const { return TF_Message(status_); }

 private:
  TF_Status* status_;
};

// TensorFlow hands what one op wrote to the next one in ways that the thread sanitizer, with which it is not compiled,
// does not see: it is told.
#if defined(POSEKIT_THREAD_SANITIZER)
inline void hand_over(void* data) { __tsan_release(data); }
inline void take_over(void* data) { __tsan_acquire(data); }
#else
inline void hand_over(void*) {}
inline void take_over(void*) {}
#endif

// One call of an op.
class Call {
 public:
  explicit Call(TF_OpKernelContext* context) : context_(context) {}
  Call(const Call&) = delete;
  ~Call() {
    for (void* data : written_) hand_over(data);
  }

  TF_OpKernelContext* context() const { return context_; }

  Tensor input(int index) {
    Status status;
    TF_Tensor* tensor = nullptr;
    TF_GetInput(context_, index, &tensor, status);
    if (!status.ok()) throw std::runtime_error(status.message());
    take_over(TF_TensorData(tensor));
    return Tensor(tensor);
  }

  template <class T>
  Tensor output(int index, const std::vector<int64_t>& shape) {
    Status status;
    TF_Tensor* tensor = TF_AllocateOutput(context_, index, TypeOf<T>::value, shape.data(),
                                          static_cast<int>(shape.size()), size_in_bytes(shape, sizeof(T)), status);
    if (!status.ok()) throw std::bad_alloc();
    written_.push_back(TF_TensorData(tensor));
    return Tensor(tensor);
  }

 private:
  TF_OpKernelContext* context_;
  std::vector<void*> written_;
};

// The making of a kernel, when the attributes of its op are at hand.
class Construction {
 public:
  explicit Construction(TF_OpKernelConstruction* context) : context_(context) {}

  int32_t number(const char* attribute) const {
    Status status;
    int32_t value = 0;
    TF_OpKernelConstruction_GetAttrInt32(context_, attribute, &value, status);
    if (!status.ok()) throw std::runtime_error(status.message());
    return value;
  }

  std::vector<int32_t> integers(const char* attribute) const {
    return list<int32_t>(attribute, TF_OpKernelConstruction_GetAttrInt32List);
  }

  std::vector<float> floats(const char* attribute) const {
    return list<float>(attribute, TF_OpKernelConstruction_GetAttrFloatList);
  }

 private:
  template <class T>
  std::vector<T> list(const char* attribute,
                      void (*get)(TF_OpKernelConstruction*, const char*, T*, int, TF_Status*)) const {
    Status status;
    int32_t size = 0, bytes = 0;
    TF_OpKernelConstruction_GetAttrSize(context_, attribute, &size, &bytes, status);
    std::vector<T> values(size);
    if (status.ok()) get(context_, attribute, values.data(), size, status);
    if (!status.ok()) throw std::runtime_error(status.message());
    return values;
  }

  TF_OpKernelConstruction* context_;
};

// Runs `body`, and hands what it throws to TensorFlow.
template <class Context, class Body>
void reporting(Context* context, void (*failure)(Context*, TF_Status*), const Body& body) {
  const int code = guarded(body);
  if (code == kOk) return;
  Status status;
  const TF_Code codes[] = {TF_OK, TF_INVALID_ARGUMENT, TF_RESOURCE_EXHAUSTED, TF_INTERNAL};
  TF_SetStatus(status, codes[code], last_error().c_str());
  failure(context, status);
}

// The functions of a kernel whose calls run `body`.
template <auto body>
struct Kernel;

template <void (*body)(Call&)>
struct Kernel<body> {
  static constexpr void* (*create)(TF_OpKernelConstruction*) = nullptr;
  static constexpr void (*destroy)(void*) = nullptr;

  static void compute(void*, TF_OpKernelContext* context) {
    reporting(context, TF_OpKernelContext_Failure, [context] {
      Call call(context);
      body(call);
    });
  }
};

// With a state, State(const Construction&), made with the kernel and shared by its calls, of which several may run at
// once.
template <class State, void (*body)(Call&, const State&)>
struct Kernel<body> {
  static void* create(TF_OpKernelConstruction* context) {
    State* state = nullptr;
    reporting(context, TF_OpKernelConstruction_Failure, [&] { state = new State(Construction(context)); });
    return state;
  }

  static void destroy(void* state) { delete static_cast<State*>(state); }

  static void compute(void* state, TF_OpKernelContext* context) {
    reporting(context, TF_OpKernelContext_Failure, [=] {
      Call call(context);
      body(call, *static_cast<const State*>(state));
    });
  }
};

// Defines an op; give `attributes` such as "T: {float, double}" and inputs and outputs such as "points: T".
void define_op(const char* name, std::initializer_list<const char*> attributes,
               std::initializer_list<const char*> inputs, std::initializer_list<const char*> outputs);
// `attribute` may be null for an op of one type only. `on_host` are the inputs that a GPU's op takes from the host.
void register_kernel(const char* op, const char* device, const char* attribute, TF_DataType type,
                     void* (*create)(TF_OpKernelConstruction*), void (*compute)(void*, TF_OpKernelContext*),
                     void (*destroy)(void*), std::initializer_list<const char*> on_host = {});

// `body` takes a Call&, and a const State& if there is one.
template <class T, auto body>
void cpu_kernel(const char* op, const char* attribute = "T") {
  using Functions = Kernel<body>;
  register_kernel(op, "CPU", attribute, TypeOf<T>::value, Functions::create, Functions::compute, Functions::destroy);
}

// Runs a function when the library is loaded: `static Registration here([] { define_op(...); cpu_kernel<...>(...); });`
struct Registration {
  explicit Registration(void (*function)()) { function(); }
};

}  // namespace posekit

#endif  // POSEKIT_TF_OPS_H_
