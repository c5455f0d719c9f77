/**
 * The pinned libtorch: version, builds, indexes, SHA-256. A SHA-256 only for wheels whose hash is known for certain.
 */

export const PINNED = '2.13.0';
/** Any Python's wheel holds the same libtorch; this one is taken. */
export const PYTHON = '3.11';

/**
 * The builds of the pinned version by their local version, and where they are published. `driver`: the oldest NVIDIA driver for it; `plain`: a
 * wheel without a local version is this build (macOS has no other; PyPI's wheel for Linux is cu130).
 */
export const BUILDS = {
  cpu: { indexes: ['https://download.pytorch.org/whl/cpu'], plain: true, about: '200 MB' },
  cu130: {
    indexes: ['https://download.pytorch.org/whl/cu130', 'https://pypi.org/simple'],
    driver: '580.65.06',
    plain: true,
    about: '2.5 GB',
  },
  cu126: {
    indexes: ['https://download.pytorch.org/whl/cu126', 'https://pypi.org/simple'],
    driver: '525.60.13',
    plain: false,
    about: '3 GB',
  },
};

/**
 * SHA-256 by file name. The x86_64 CPU wheel was fetched and its hash computed; the others are the hashes that the index publishes, as public
 * lock files record them: two agree on each CPU wheel, the CUDA wheel stands in one. A wheel without a line here is checked against the hash that the index
 * itself serves, and setup says so.
 */
export const SHA256 = {
  'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl':
    '6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b',
  'torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl':
    '84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7',
  'torch-2.13.0-cp311-cp311-macosx_14_0_arm64.whl': 'e76f9bcecc52b8ff711239a2f7547d5353df95878ab232f0773c1d95928b92f8',
  'torch-2.13.0+cu130-cp311-cp311-manylinux_2_28_x86_64.whl':
    '794664c05a3470a5e738447b54495cc6bbf1efca48bf2794270a897d9f4356c4',
};
