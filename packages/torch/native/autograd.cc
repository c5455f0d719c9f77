// Gradients, gradient mode and random number generators. Recompute depends on the state of the generators.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "handles.h"

namespace minicpm {

static std::vector<at::Tensor> tensorsOf(const Napi::Value& value) {
  std::vector<at::Tensor> result;
  if (value.IsNull() || value.IsUndefined()) return result;
  const auto array = value.As<Napi::Array>();
  result.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value element = array.Get(i);
    result.push_back(element.IsNull() ? at::Tensor() : tensorOf(element));
  }
  return result;
}

// (handle[] outputs, handle[] inputs, (handle|null)[]|null gradOutputs, bool retainGraph, bool createGraph)
// -> (handle|null)[]; null where an input was not used
static Napi::Value grad(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, "grad", [&]() -> Napi::Value {
    const auto gradients = torch::autograd::grad(tensorsOf(info[0]), tensorsOf(info[1]), tensorsOf(info[2]),
                                                 info[3].As<Napi::Boolean>().Value(), info[4].As<Napi::Boolean>().Value(),
                                                 /*allow_unused=*/true);
    auto result = Napi::Array::New(env, gradients.size());
    for (uint32_t i = 0; i < gradients.size(); i++) {
      if (gradients[i].defined()) {
        result.Set(i, static_cast<double>(handles(env).add(gradients[i])));
      } else {
        result.Set(i, env.Null());
      }
    }
    return result;
  });
}

static Napi::Value requiresGrad(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "requiresGrad", [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), tensorOf(info[0]).requires_grad());
  });
}

static void setRequiresGrad(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "setRequiresGrad", [&] { tensorOf(info[0]).set_requires_grad(info[1].As<Napi::Boolean>().Value()); });
}

static Napi::Value setGradMode(const Napi::CallbackInfo& info) {  // returns what it was
  const bool before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(info[0].As<Napi::Boolean>().Value());
  return Napi::Boolean::New(info.Env(), before);
}

// The meta device draws nothing: the CPU's generator stands for its own.
static at::Generator generatorOf(const Napi::Value& name) {
  const c10::Device device(name.As<Napi::String>().Utf8Value());
  return at::globalContext().defaultGenerator(device.is_meta() ? c10::Device(c10::kCPU) : device);
}

static void manualSeed(const Napi::CallbackInfo& info) {  // (seed, device or null for all)
  guarded(info.Env(), "manualSeed", [&] {
    const auto seed = static_cast<uint64_t>(info[0].As<Napi::Number>().Int64Value());
    if (info[1].IsNull()) return at::manual_seed(seed);
    at::Generator generator = generatorOf(info[1]);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_current_seed(seed);
  });
}

static Napi::Value rngState(const Napi::CallbackInfo& info) {  // (device) -> handle of a uint8 tensor
  return guarded(info.Env(), "rngState", [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), handles(info.Env()).add(generatorOf(info[0]).get_state()));
  });
}

static void setRngState(const Napi::CallbackInfo& info) {  // (device, handle)
  guarded(info.Env(), "setRngState", [&] { generatorOf(info[0]).set_state(tensorOf(info[1])); });
}

void registerAutograd(Napi::Env env, Napi::Object exports) {
  exports.Set("grad", Napi::Function::New(env, grad));
  exports.Set("requiresGrad", Napi::Function::New(env, requiresGrad));
  exports.Set("setRequiresGrad", Napi::Function::New(env, setRequiresGrad));
  exports.Set("setGradMode", Napi::Function::New(env, setGradMode));
  exports.Set("manualSeed", Napi::Function::New(env, manualSeed));
  exports.Set("rngState", Napi::Function::New(env, rngState));
  exports.Set("setRngState", Napi::Function::New(env, setRngState));
}

}  // namespace minicpm
