/**
 * Parses requirements of wheels (PEP 508). `Requires-Dist`: name, extras, versions, and the marker that says for which
 * systems they are. As much of it as PyTorch's and NVIDIA's wheels use: release versions without pre-releases, markers
 * of `and`, `or`, parentheses and comparisons.
 */

const normalName = (name) => name.toLowerCase().replace(/[-_.]+/g, '-');

/** The numbers of a release version; undefined for a pre-release or anything else. Its local part (+cpu) is left out. */
function release(version) {
  const match = /^v?(\d+(?:\.\d+)*)(?:\.post(\d+))?(?:\+.*)?$/.exec(version.trim());
  return match ? { numbers: match[1].split('.').map(Number), post: Number(match[2] ?? -1) } : undefined;
}

/** Negative, 0 or positive. Pre-releases come before everything. */
export function compareReleases(a, b) {
  const [left, right] = [release(a), release(b)];
  if (!left || !right) return Number(Boolean(left)) - Number(Boolean(right));
  for (let i = 0; i < Math.max(left.numbers.length, right.numbers.length); i++) {
    const difference = (left.numbers[i] ?? 0) - (right.numbers[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return left.post - right.post;
}

const startsWith = (version, prefix) => {
  const [numbers, wanted] = [release(version)?.numbers ?? [], prefix.split('.').map(Number)];
  return wanted.every((number, i) => (numbers[i] ?? 0) === number);
};

/** Whether a version is one of those that `specifier` (`==13.0.3`, `<14,>=13.0.88`, `==13.1.*`, `~=3.8.0`) names. */
export function satisfies(version, specifier) {
  if (!release(version)) return false;
  return specifier
    .split(',')
    .map((part) => part.trim())
    .filter((part) => part !== '')
    .every((part) => {
      const match = /^(===|==|!=|<=|>=|~=|<|>)\s*(\S+)$/.exec(part);
      if (!match) throw new Error(`Expected a version specifier such as ==1.2.3 but received ${part}`);
      const [, operator, wanted] = match;
      const order = compareReleases(version, wanted);
      switch (operator) {
        case '==':
          return wanted.endsWith('.*') ? startsWith(version, wanted.slice(0, -2)) : order === 0;
        case '!=':
          return wanted.endsWith('.*') ? !startsWith(version, wanted.slice(0, -2)) : order !== 0;
        case '~=':
          return order >= 0 && startsWith(version, wanted.split('.').slice(0, -1).join('.'));
        case '<=':
          return order <= 0;
        case '>=':
          return order >= 0;
        case '<':
          return order < 0;
        case '>':
          return order > 0;
        default:
          return version === wanted;
      }
    });
}

/** `name[extra, …] (versions) ; marker` taken apart. */
export function parseRequirement(line) {
  const [requirement, marker] = [
    line.split(';')[0].trim(),
    line.includes(';') ? line.slice(line.indexOf(';') + 1) : '',
  ];
  const match = /^([A-Za-z0-9][\w.-]*)\s*(?:\[([^\]]*)\])?\s*\(?([^()]*)\)?$/.exec(requirement);
  if (!match) throw new Error(`Expected a requirement such as name==1.2.3 but received ${line}`);
  const [, name, extras = '', specifier] = match;
  return {
    name: normalName(name),
    extras: extras
      .split(',')
      .map((extra) => normalName(extra.trim()))
      .filter((extra) => extra !== ''),
    specifier: specifier.trim(),
    marker: marker.trim(),
  };
}

/** What markers ask about, for a Node platform (`linux-x64`) and one extra. */
export function markerEnvironment(platform, python, extra = '') {
  const [system, arch] = platform.split('-');
  const machine = arch === 'x64' ? 'x86_64' : system === 'darwin' ? 'arm64' : 'aarch64';
  return {
    platform_system: system === 'darwin' ? 'Darwin' : 'Linux',
    sys_platform: system,
    platform_machine: machine,
    os_name: 'posix',
    python_version: python,
    python_full_version: `${python}.0`,
    implementation_name: 'cpython',
    platform_python_implementation: 'CPython',
    extra,
  };
}

function compareMarker(left, operator, right, versions) {
  if (versions) return satisfies(left, `${operator}${right}`);
  switch (operator) {
    case '==':
      return left === right;
    case '!=':
      return left !== right;
    case 'in':
      return right.includes(left);
    case 'not in':
      return !right.includes(left);
    default:
      throw new Error(`Expected ==, !=, in or not in between words but received ${left} ${operator} ${right}`);
  }
}

/** Whether a marker is true in an environment; the empty one always is. */
export function markerHolds(marker, environment) {
  if (marker === '') return true;
  const tokens = marker.match(/'[^']*'|"[^"]*"|\(|\)|not\s+in\b|[<>=!~]=?=?|[\w.]+/g) ?? [];
  let position = 0;
  const value = () => {
    const token = tokens[position++];
    if (/^['"]/.test(token ?? '')) return { text: token.slice(1, -1), version: false };
    if (!(token in environment))
      throw new Error(`Expected a known variable in the marker "${marker}" but received ${token}`);
    return { text: environment[token], version: /^python_(full_)?version$/.test(token) };
  };
  const comparison = () => {
    if (tokens[position] === '(') {
      position++;
      const inner = either();
      position++;
      return inner;
    }
    const left = value();
    const operator = tokens[position++].replace(/\s+/g, ' ');
    const right = value();
    return compareMarker(left.text, operator, right.text, left.version || right.version);
  };
  const both = () => {
    let holds = comparison();
    while (tokens[position] === 'and') {
      position++;
      holds = comparison() && holds;
    }
    return holds;
  };
  const either = () => {
    let holds = both();
    while (tokens[position] === 'or') {
      position++;
      holds = both() || holds;
    }
    return holds;
  };
  return either();
}

/**
 * The requirements of a wheel's METADATA that hold on this platform, with these extras asked for.
 *
 * @param {string} metadata
 * @param {{ platform: string, python: string, extras?: readonly string[] }} where
 * @returns {{ name: string, extras: string[], specifier: string, marker: string }[]}
 */
export function requirementsOf(metadata, { platform, python, extras = [] }) {
  const lines = metadata
    .split(/\r?\n\r?\n/)[0]
    .split(/\r?\n/)
    .filter((line) => line.startsWith('Requires-Dist:'));
  return lines
    .map((line) => parseRequirement(line.slice('Requires-Dist:'.length).trim()))
    .filter(({ marker }) =>
      ['', ...extras].some((extra) => markerHolds(marker, markerEnvironment(platform, python, extra))),
    );
}
