// Calls any operator by name through libtorch's dispatcher. Looks it up once, converts the arguments by its own schema,
// calls it boxed, and converts the results back.
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <optional>
#include <set>

#include "handles.h"

namespace minicpm {

enum class Kind { Tensor, TensorList, OptionalTensorList, Integer, IntegerList, Float, FloatList, Bool, Scalar, String, Device, Other };

struct Argument {
  Kind kind;
  bool optional;  // accepts none
};

struct Operator {
  c10::OperatorHandle handle;
  std::vector<Argument> arguments;
  bool inPlace;  // returns one of its own operands: JavaScript hands that back itself
  enum class Waits { Never, Always, Copy } waits = Waits::Never;  // for the device, see handles.h
  bool copies = false;                                            // between devices
};

static Operator::Waits waitsOf(const std::string& name, const std::string& overload) {
  static const std::set<std::string> always = {"aten::equal", "aten::nonzero", "aten::_unique2"};
  if (always.count(name) > 0) return Operator::Waits::Always;
  return name == "aten::to" && overload == "device" ? Operator::Waits::Copy : Operator::Waits::Never;
}

// A copy to the CPU, or one from there that was not asked to go on meanwhile.
static bool copyWaits(const std::vector<c10::IValue>& stack) {  // (self, device, dtype, non_blocking, …)
  if (stack[1].toDevice().is_cpu()) return true;
  return stack[0].toTensor().is_cpu() && !stack[3].toBool();
}

static std::vector<Operator>& operators() {
  static thread_local std::vector<Operator> table;
  return table;
}

static Kind listKind(const c10::TypePtr& element) {
  switch (element->kind()) {
    case c10::TypeKind::TensorType: return Kind::TensorList;
    case c10::TypeKind::OptionalType: return Kind::OptionalTensorList;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return Kind::IntegerList;
    case c10::TypeKind::FloatType: return Kind::FloatList;
    default: return Kind::Other;
  }
}

static Argument argumentOf(c10::TypePtr type) {
  bool optional = false;
  if (type->kind() == c10::TypeKind::OptionalType) {
    optional = true;
    type = type->castRaw<c10::OptionalType>()->getElementType();
  }
  switch (type->kind()) {
    case c10::TypeKind::TensorType: return {Kind::Tensor, optional};
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType: return {Kind::Integer, optional};
    case c10::TypeKind::FloatType: return {Kind::Float, optional};
    case c10::TypeKind::BoolType: return {Kind::Bool, optional};
    case c10::TypeKind::NumberType: return {Kind::Scalar, optional};
    case c10::TypeKind::StringType: return {Kind::String, optional};
    case c10::TypeKind::DeviceObjType: return {Kind::Device, optional};
    case c10::TypeKind::ListType: return {listKind(type->castRaw<c10::ListType>()->getElementType()), optional};
    default: return {Kind::Other, optional};
  }
}

static c10::IValue scalarOf(const Napi::Value& value) {
  if (value.IsBoolean()) return at::Scalar(value.As<Napi::Boolean>().Value());
  const double number = value.As<Napi::Number>().DoubleValue();
  const auto integer = static_cast<int64_t>(number);
  if (static_cast<double>(integer) == number && !(number == 0 && std::signbit(number))) return at::Scalar(integer);
  return at::Scalar(number);
}

static c10::IValue tensorListOf(const Napi::Value& value, bool optionalElements) {
  const auto array = value.As<Napi::Array>();
  if (optionalElements) {
    c10::List<std::optional<at::Tensor>> list;
    for (uint32_t i = 0; i < array.Length(); i++) {
      const Napi::Value element = array.Get(i);
      list.push_back(element.IsNull() ? std::optional<at::Tensor>() : std::optional<at::Tensor>(tensorOf(element)));
    }
    return list;
  }
  c10::List<at::Tensor> list;
  list.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) list.push_back(tensorOf(array.Get(i)));
  return list;
}

static c10::IValue convert(const Argument& argument, const Napi::Value& value) {
  if (value.IsNull()) return c10::IValue();
  switch (argument.kind) {
    case Kind::Tensor: return tensorOf(value);
    case Kind::TensorList: return tensorListOf(value, false);
    case Kind::OptionalTensorList: return tensorListOf(value, true);
    case Kind::Integer: return value.As<Napi::Number>().Int64Value();
    case Kind::IntegerList: return c10::List<int64_t>(integersOf(value));
    case Kind::Float: return value.As<Napi::Number>().DoubleValue();
    case Kind::FloatList: {
      c10::List<double> list;
      const auto array = value.As<Napi::Array>();
      for (uint32_t i = 0; i < array.Length(); i++) list.push_back(array.Get(i).As<Napi::Number>().DoubleValue());
      return list;
    }
    case Kind::Bool: return value.As<Napi::Boolean>().Value();
    case Kind::Scalar: return scalarOf(value);
    case Kind::String: return value.As<Napi::String>().Utf8Value();
    case Kind::Device: return c10::Device(value.As<Napi::String>().Utf8Value());
    case Kind::Other: break;
  }
  TORCH_CHECK(false, "an argument of this type cannot be given from JavaScript");
}

static Napi::Value toJavaScript(Napi::Env env, const c10::IValue& value) {
  if (value.isTensor()) {
    if (!value.toTensor().defined()) return env.Null();
    return Napi::Number::New(env, handles(env).add(value.toTensor()));
  }
  if (value.isTensorList()) {
    const auto list = value.toTensorVector();
    auto result = Napi::Array::New(env, list.size());
    for (uint32_t i = 0; i < list.size(); i++) result.Set(i, static_cast<double>(handles(env).add(list[i])));
    return result;
  }
  if (value.isInt()) return Napi::Number::New(env, value.toInt());
  if (value.isDouble()) return Napi::Number::New(env, value.toDouble());
  if (value.isBool()) return Napi::Boolean::New(env, value.toBool());
  if (value.isNone()) return env.Null();
  TORCH_CHECK(false, "a result of type ", value.tagKind(), " cannot be given to JavaScript");
}

template <typename Look>
static void forEachTensor(const std::vector<c10::IValue>& stack, Look&& look) {
  for (const auto& value : stack) {
    if (value.isTensor()) look(value.toTensor());
    if (!value.isTensorList()) continue;
    for (const auto& element : value.toListRef()) look(element.toTensor());
  }
}

// On the meta device an operator may take a tensor of the CPU for one of its own; on a GPU it would not. Single numbers go along everywhere.
static void refuseMixedMeta(const std::vector<c10::IValue>& stack) {
  const at::Tensor* meta = nullptr;
  const at::Tensor* other = nullptr;
  forEachTensor(stack, [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (tensor.is_meta()) meta = &tensor;
    else if (tensor.dim() > 0) other = &tensor;
  });
  TORCH_CHECK(meta == nullptr || other == nullptr, "Expected all tensors on one device but received ", other->device(), " and ", meta->device());
}

// A tensor whose memory was given back (storage.cc) would be read at address 0.
static void refuseReleased(const std::vector<c10::IValue>& stack) {
  forEachTensor(stack, [&](const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.has_storage() || tensor.numel() == 0 || tensor.is_meta()) return;
    TORCH_CHECK(tensor.storage().data() != nullptr, "the memory of ", describe(tensor), " was given back and has not been filled again");
  });
}

static std::string where(const Operator& op, const std::vector<c10::IValue>& stack) {
  std::string text = op.handle.schema().name() + "(";
  const char* separator = "";
  for (const auto& value : stack) {
    if (value.isTensor()) {
      text += separator + describe(value.toTensor());
      separator = ", ";
    }
  }
  return text + ")";
}

static Napi::Value resolve(const Napi::CallbackInfo& info) {  // (name, overload) -> {index, schema}
  const auto name = info[0].As<Napi::String>().Utf8Value(), overload = info[1].As<Napi::String>().Utf8Value();
  return guarded(info.Env(), "resolve", [&]() -> Napi::Value {
    auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
    Operator op{handle, {}, false, waitsOf(name, overload), name == "aten::to" || name == "aten::copy_" || name == "aten::_foreach_copy_"};
    for (const auto& argument : handle.schema().arguments()) op.arguments.push_back(argumentOf(argument.type()));
    const auto& returns = handle.schema().returns();
    op.inPlace = returns.size() == 1 && returns[0].alias_info() && returns[0].alias_info()->isWrite();
    operators().push_back(std::move(op));
    auto result = Napi::Object::New(info.Env());
    result.Set("index", static_cast<double>(operators().size() - 1));
    auto names = Napi::Array::New(info.Env());
    for (uint32_t i = 0; i < handle.schema().arguments().size(); i++) names.Set(i, handle.schema().arguments()[i].name());
    result.Set("names", names);
    return result;
  });
}

static Napi::Value call(const Napi::CallbackInfo& info) {  // (index, ...arguments); undefined = the schema's default
  const Napi::Env env = info.Env();
  const Operator& op = operators()[info[0].As<Napi::Number>().Uint32Value()];
  std::vector<c10::IValue> stack;
  try {
    const auto& declared = op.handle.schema().arguments();
    stack.reserve(declared.size());
    for (size_t i = 0; i < declared.size(); i++) {
      const Napi::Value value = info[i + 1];
      if (!value.IsUndefined()) {
        stack.push_back(convert(op.arguments[i], value));
      } else {
        TORCH_CHECK(declared[i].default_value().has_value(), "argument '", declared[i].name(), "' is missing");
        stack.push_back(*declared[i].default_value());
      }
    }
    if (op.waits == Operator::Waits::Always || (op.waits == Operator::Waits::Copy && copyWaits(stack))) countDeviceWait();
    if (!op.copies) refuseMixedMeta(stack);
    refuseReleased(stack);
    op.handle.callBoxed(stack);
    if (op.inPlace || stack.empty()) return env.Undefined();
    if (stack.size() == 1) return toJavaScript(env, stack[0]);
    auto result = Napi::Array::New(env, stack.size());
    for (uint32_t i = 0; i < stack.size(); i++) result.Set(i, toJavaScript(env, stack[i]));
    return result;
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    rethrow(env, where(op, stack));
  }
}

void registerDispatch(Napi::Env env, Napi::Object exports) {
  exports.Set("resolve", Napi::Function::New(env, resolve));
  exports.Set("call", Napi::Function::New(env, call));
}

}  // namespace minicpm
