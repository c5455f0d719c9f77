{
  "variables": {
    "libtorch%": "<!(node -p \"process.env.LIBTORCH_ROOT || ''\")"
  },
  "targets": [
    {
      "target_name": "torch",
      "sources": [
        "native/addon.cc",
        "native/handles.cc",
        "native/tensor.cc",
        "native/dispatch.cc",
        "native/autograd.cc",
        "native/mapping.cc",
        "native/process.cc",
        "native/signals.cc",
        "native/allocator.cc",
        "native/device.cc",
        "native/attention.cc",
        "native/attention-pack.cc",
        "native/attention-forward.cc",
        "native/attention-backward.cc",
        "native/fused.cc",
        "native/dropout.cc",
        "native/meta.cc"
      ],
      "include_dirs": [
        "<!@(node -p \"require('node-addon-api').include\")",
        "<(libtorch)/include",
        "<(libtorch)/include/torch/csrc/api/include"
      ],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_DISABLE_DEPRECATED"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
      "cflags_cc": ["-std=c++20", "-fexceptions", "-frtti", "-O2", "-Wno-unused-parameter", "-Wno-missing-field-initializers"],
      "xcode_settings": {
        "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
        "GCC_ENABLE_CPP_RTTI": "YES",
        "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
        "MACOSX_DEPLOYMENT_TARGET": "12.0",
        "OTHER_LDFLAGS": ["-Wl,-rpath,<(libtorch)/lib"]
      },
      "libraries": [
        "-L<(libtorch)/lib",
        "-Wl,-rpath,<(libtorch)/lib",
        "-ltorch",
        "-ltorch_cpu",
        "-lc10"
      ],
      "conditions": [
        ["OS=='linux'", { "cflags_cc": ["-fopenmp"], "ldflags": ["-Wl,--no-as-needed"] }]
      ]
    }
  ]
}
