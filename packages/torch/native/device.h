// Devices by number.
#pragma once
#include <c10/core/Device.h>

namespace minicpm {

// The device with an index: `cuda` is the one in use. Starts a device that was never used before.
c10::Device indexed(c10::Device device);

}  // namespace minicpm
