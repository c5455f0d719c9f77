// What JavaScript calls of groups. Joining, gather, scatterAdd, alltoall.
#include "group.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <cstring>

#include "device.h"
#include "handles.h"
#include "store.h"

namespace minicpm {

namespace {

// By their numbers in JavaScript. Kept until closed; never destroyed at exit, when a thread of theirs may still wait.
struct Open {
  std::map<int64_t, std::shared_ptr<Group>> groups;
  int64_t next = 1;
};
Open& opened() {
  static auto* open = new Open();
  return *open;
}

Group& groupOf(const Napi::Value& value) {
  const auto found = opened().groups.find(value.As<Napi::Number>().Int64Value());
  TORCH_CHECK(found != opened().groups.end(), "the group is closed");
  return *found->second;
}

std::string textOf(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value(); }
int64_t integerOf(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

// (store, name, rank, size, own address, timeout in ms, device besides the host or null, path of NCCL or null) -> group
Napi::Value joinGroup(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "joinGroup", [&]() -> Napi::Value {
    const auto named = c10::make_intrusive<c10d::PrefixStore>("group/" + textOf(info[1]), storeOf(integerOf(info[0])));
    auto& open = opened();
    Group::Options options{static_cast<int>(integerOf(info[2])), static_cast<int>(integerOf(info[3])), textOf(info[4]), integerOf(info[5]), {}, ""};
    if (!info[6].IsNull()) options.device = indexed(c10::Device(textOf(info[6])));
    if (!info[7].IsNull()) options.nccl = textOf(info[7]);
    open.groups[open.next] = std::make_shared<Group>(named, options);
    return Napi::Number::New(info.Env(), static_cast<double>(open.next++));
  });
}

// (group): operations under way are done or have failed after it
void leaveGroup(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "leaveGroup", [&] { opened().groups.erase(integerOf(info[0])); });
}

// (group, operation)
void groupWait(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "group", [&] { groupOf(info[0]).wait(integerOf(info[1])); });
}

// (group, operation) -> whether it is done
Napi::Value groupDone(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "group", [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), groupOf(info[0]).done(integerOf(info[1])));
  });
}

// In host memory, or on the group's device.
at::Tensor groupTensor(const Group& group, const Napi::Value& value, const char* what) {
  const auto& tensor = tensorOf(value);
  TORCH_CHECK(tensor.is_contiguous(), "Expected a contiguous tensor for ", what, " but received ", describe(tensor));
  TORCH_CHECK(tensor.is_cpu() || group.device() == tensor.device(), "Expected a tensor in host memory",
              group.device() ? " or on " + group.device()->str() : "", " for ", what, " but received ", describe(tensor), " on ", tensor.device(),
              group.device() ? "" : ": join the group with this device");
  return tensor;
}

c10::Device oneDevice(const at::Tensor& a, const at::Tensor& b) {
  TORCH_CHECK(a.device() == b.device(), "Expected tensors of one operation on one device but received ", a.device(), " and ", b.device());
  return a.device();
}

char* at(const at::Tensor& tensor, size_t offset = 0) { return static_cast<char*>(tensor.data_ptr()) + offset; }

at::Tensor flat(const at::Tensor& tensor) { return tensor.view({tensor.numel()}); }

// Copies the bytes of a tensor to a place in another one.
void copyBytes(const Group& own, const at::Tensor& target, size_t offset, const at::Tensor& source) {
  const size_t bytes = source.nbytes();
  if (bytes == 0 || at(target, offset) == at(source)) return;
  if (!own.onDevice()) std::memcpy(at(target, offset), at(source), bytes);
  else flat(target).view(at::kByte).narrow(0, static_cast<int64_t>(offset), static_cast<int64_t>(bytes)).copy_(flat(source).view(at::kByte));
}

// (group, whole, share, label) -> operation: every rank's share lands at its place in `whole`
Napi::Value gather(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "gather", [&]() -> Napi::Value {
    Group& group = groupOf(info[0]);
    const auto whole = groupTensor(group, info[1], "whole"), share = groupTensor(group, info[2], "share");
    TORCH_CHECK(whole.numel() == share.numel() * group.size() && whole.scalar_type() == share.scalar_type(), "Expected ", group.size(),
                " shares for the whole but received ", describe(whole), " for shares of ", describe(share));
    const auto run = [whole, share, label = "gather " + textOf(info[3])](Group& own) {
      const size_t bytes = share.nbytes();
      const std::vector<uint64_t> sizes(own.size(), bytes);
      own.agree(label, sizes, sizes);
      std::vector<Piece> sent, received;
      for (int k = 1; k < own.size(); k++) {
        const int to = (own.rank() + k) % own.size(), from = (own.rank() - k + own.size()) % own.size();
        sent.push_back({to, at(share), bytes});
        received.push_back({from, at(whole, static_cast<size_t>(from) * bytes), bytes});
      }
      copyBytes(own, whole, static_cast<size_t>(own.rank()) * bytes, share);
      own.move(sent, received);
    };
    return Napi::Number::New(info.Env(), static_cast<double>(group.submit(oneDevice(whole, share), run)));
  });
}

template <typename T>
void addTo(float* sum, const T* values, size_t count) {
  for (size_t i = 0; i < count; i++) sum[i] += static_cast<float>(values[i]);
}

// Adds `count` numbers from `from` of a flat tensor onto those from `begin` of the sum.
void addTo(const Group& own, const at::Tensor& sum, size_t begin, const at::Tensor& values, size_t from, size_t count) {
  if (own.onDevice()) {
    const auto numbers = static_cast<int64_t>(count);
    sum.narrow(0, static_cast<int64_t>(begin), numbers).add_(values.narrow(0, static_cast<int64_t>(from), numbers).to(at::kFloat));
    return;
  }
  float* const target = sum.data_ptr<float>() + begin;
  if (values.scalar_type() == at::kBFloat16) return addTo(target, values.const_data_ptr<at::BFloat16>() + from, count);
  if (values.scalar_type() == at::kHalf) return addTo(target, values.const_data_ptr<at::Half>() + from, count);
  addTo(target, values.const_data_ptr<float>() + from, count);
}

constexpr size_t kPiece = size_t{4} << 20;  // numbers of a share that are summed at a time: bounds the memory for those of the peers

// Adds share `rank` of every rank's `whole` onto `sum`, in the order of the ranks, so that the result has the same bits as one process
// that adds them one after the other.
void addShares(Group& own, const at::Tensor& sum, const at::Tensor& whole, const std::string& label) {
  const size_t count = static_cast<size_t>(sum.numel()), width = whole.element_size();
  const std::vector<uint64_t> sizes(own.size(), count * width);
  own.agree(label, sizes, sizes);
  const size_t most = std::min(count, kPiece);
  const auto room = at::empty({static_cast<int64_t>(own.size() - 1) * static_cast<int64_t>(most)}, whole.options());
  const auto roomOf = [&](int peer) { return static_cast<size_t>(peer - (peer > own.rank() ? 1 : 0)) * most; };
  for (size_t begin = 0; begin < count; begin += most) {
    const size_t numbers = std::min(most, count - begin);
    std::vector<Piece> sent, received;
    for (int k = 1; k < own.size(); k++) {
      const int to = (own.rank() + k) % own.size(), from = (own.rank() - k + own.size()) % own.size();
      sent.push_back({to, at(whole, (static_cast<size_t>(to) * count + begin) * width), numbers * width});
      received.push_back({from, at(room, roomOf(from) * width), numbers * width});
    }
    own.move(sent, received);
    for (int r = 0; r < own.size(); r++) {
      if (r == own.rank()) addTo(own, flat(sum), begin, flat(whole), static_cast<size_t>(r) * count + begin, numbers);
      else addTo(own, flat(sum), begin, room, roomOf(r), numbers);
    }
  }
}

// (group, sum in float32, whole, label) -> operation
Napi::Value scatterAdd(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "scatterAdd", [&]() -> Napi::Value {
    Group& group = groupOf(info[0]);
    const auto sum = groupTensor(group, info[1], "sum"), whole = groupTensor(group, info[2], "whole");
    TORCH_CHECK(sum.scalar_type() == at::kFloat, "Expected float32 for the sum but received ", describe(sum));
    TORCH_CHECK(whole.scalar_type() == at::kFloat || whole.scalar_type() == at::kBFloat16 || whole.scalar_type() == at::kHalf,
                "Expected float32, bfloat16 or float16 for the whole but received ", describe(whole));
    TORCH_CHECK(whole.numel() == sum.numel() * group.size(), "Expected ", group.size(), " shares for the whole but received ",
                describe(whole), " for a sum of ", describe(sum));
    const auto run = [sum, whole, label = "scatterAdd " + textOf(info[3])](Group& own) { addShares(own, sum, whole, label); };
    return Napi::Number::New(info.Env(), static_cast<double>(group.submit(oneDevice(sum, whole), run)));
  });
}

std::vector<at::Tensor> tensorsOf(const Group& group, const Napi::Value& value, const char* what) {
  const auto array = value.As<Napi::Array>();
  TORCH_CHECK(static_cast<int>(array.Length()) == group.size(), "Expected a tensor for each of ", group.size(), " ranks for ", what,
              " but received ", array.Length());
  std::vector<at::Tensor> tensors;
  for (uint32_t i = 0; i < array.Length(); i++) {
    tensors.push_back(groupTensor(group, array.Get(i), what));
    oneDevice(tensors[0], tensors.back());
  }
  return tensors;
}

// (group, tensors to each rank, tensors from each rank, label) -> operation; a rank's own tensor is copied
Napi::Value alltoall(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "alltoall", [&]() -> Napi::Value {
    Group& group = groupOf(info[0]);
    const auto outgoing = tensorsOf(group, info[1], "outgoing"), incoming = tensorsOf(group, info[2], "incoming");
    const auto me = static_cast<size_t>(group.rank());
    TORCH_CHECK(outgoing[me].nbytes() == incoming[me].nbytes(), "Expected equal sizes for the rank's own tensors but received ",
                describe(outgoing[me]), " and ", describe(incoming[me]));
    const auto run = [outgoing, incoming, me, label = "alltoall " + textOf(info[3])](Group& own) {
      std::vector<uint64_t> sends, receives;
      std::vector<Piece> sent, received;
      for (int r = 0; r < own.size(); r++) {
        const auto& out = outgoing[static_cast<size_t>(r)];
        const auto& in = incoming[static_cast<size_t>(r)];
        sends.push_back(out.nbytes());
        receives.push_back(in.nbytes());
        if (r == own.rank()) continue;
        sent.push_back({r, at(out), out.nbytes()});
        received.push_back({r, at(in), in.nbytes()});
      }
      own.agree(label, sends, receives);
      copyBytes(own, incoming[me], 0, outgoing[me]);
      own.move(sent, received);
    };
    return Napi::Number::New(info.Env(), static_cast<double>(group.submit(oneDevice(outgoing[0], incoming[0]), run)));
  });
}

}  // namespace

void registerGroup(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  registerStore(env, exports);
  add("joinGroup", joinGroup);
  add("leaveGroup", leaveGroup);
  add("groupWait", groupWait);
  add("groupDone", groupDone);
  add("gather", gather);
  add("scatterAdd", scatterAdd);
  add("alltoall", alltoall);
}

}  // namespace minicpm
