/**
 * Reads package indexes: wheels, addresses, SHA-256. Reads the "simple" repository as PyPI serves it (JSON) and as
 * everyone else does (a page of links with #sha256=…, such as PyTorch's).
 */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compareReleases, satisfies } from './requirement.mjs';

const JSON_TYPE = 'application/vnd.pypi.simple.v1+json';

/** `name-version[-build]-python-abi-platform.whl` taken apart; undefined for anything else. */
export function parseWheelName(file) {
  const match = /^([^-]+)-([^-]+)(?:-(\d[^-]*))?-([^-]+)-([^-]+)-([^-]+)\.whl$/.exec(file);
  if (!match) return undefined;
  const [, name, version, , python, abi, platform] = match;
  return { name, version, python: python.split('.'), abi: abi.split('.'), platforms: platform.split('.') };
}

const unescapeHtml = (text) =>
  text.replace(/&(amp|lt|gt|quot|#39);/g, (_, name) => ({ amp: '&', lt: '<', gt: '>', quot: '"', '#39': "'" })[name]);

function filesOfPage(html, base) {
  return [...html.matchAll(/<a\b([^>]*)>/gi)].flatMap(([, attributes]) => {
    const href = /\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')/i.exec(attributes);
    if (!href || /\bdata-yanked\b/i.test(attributes)) return [];
    const url = new URL(unescapeHtml(href[1] ?? href[2]), base);
    const sha256 = /[#&]sha256=([0-9a-f]{64})/i.exec(url.hash)?.[1]?.toLowerCase();
    url.hash = '';
    return [{ file: decodeURIComponent(url.pathname.split('/').at(-1)), url: url.href, sha256 }];
  });
}

function filesOfJson(text, base) {
  return JSON.parse(text)
    .files.filter(({ yanked }) => !yanked)
    .map(({ filename, url, hashes, size }) => ({
      file: filename,
      url: new URL(url, base).href,
      sha256: hashes?.sha256,
      size,
    }));
}

/**
 * The files of a package in an index (its base address, http, https or file). Empty when the index does not have the package.
 *
 * @throws when the index cannot be reached.
 */
export async function listFiles(index, name) {
  const base = new URL(`${index.replace(/\/+$/, '')}/${name}/`);
  if (base.protocol === 'file:') {
    const page = fileURLToPath(new URL('index.html', base));
    return existsSync(page) ? filesOfPage(readFileSync(page, 'utf8'), base) : [];
  }
  let response;
  try {
    response = await fetch(base, {
      headers: { accept: `${JSON_TYPE}, text/html;q=0.5` },
      signal: AbortSignal.timeout(30_000),
    });
  } catch (error) {
    throw new Error(`${base.href} cannot be reached (${error.cause?.code ?? error.cause?.message ?? error.message})`, {
      cause: error,
    });
  }
  if (response.status === 404) return [];
  if (!response.ok) throw new Error(`${base.href} answered ${response.status} ${response.statusText}`);
  const text = await response.text();
  const json = response.headers.get('content-type')?.includes('json');
  return json ? filesOfJson(text, response.url) : filesOfPage(text, response.url);
}

/** Whether a wheel's platform tag runs on `platform` (`linux-x64`) with this glibc or macOS version. */
function runsOn(tag, platform, system) {
  if (tag === 'any') return true;
  const [name, arch] = platform.split('-');
  if (name === 'darwin') {
    const match = /^macosx_(\d+)_(\d+)_(arm64|universal2)$/.exec(tag);
    return match !== null && compareReleases(`${match[1]}.${match[2]}`, system) <= 0;
  }
  if (!tag.endsWith(arch === 'x64' ? '_x86_64' : '_aarch64')) return false;
  const glibc = /^manylinux_(\d+)_(\d+)_/.exec(tag);
  return glibc ? compareReleases(`${glibc[1]}.${glibc[2]}`, system) <= 0 : /^manylinux(1|2010|2014)_|^linux_/.test(tag);
}

/**
 * The newest wheel among `files` that `specifier` names and that runs here; undefined without. `local` asks for a build (`cpu`, `cu130`):
 * its version ends with `+local`; where `plain` is true, a version without such an ending is that build, too.
 */
export function chooseWheel(files, { specifier, platform, system, python, local, plain = true }) {
  const tag = `cp${python.replace('.', '')}`;
  return files
    .map((file) => ({ ...file, wheel: parseWheelName(file.file) }))
    .filter(({ wheel }) => wheel !== undefined && satisfies(wheel.version, specifier))
    .filter(({ wheel }) => {
      const [, build] = wheel.version.split('+');
      return local === undefined || (build === undefined ? plain : build === local);
    })
    .filter(({ wheel }) => wheel.python.some((name) => name === tag || /^py[23]*$/.test(name)))
    .filter(({ wheel }) => wheel.abi.some((name) => name === tag || name === 'none'))
    .filter(({ wheel }) => wheel.platforms.some((name) => runsOn(name, platform, system)))
    .sort(
      (a, b) =>
        compareReleases(b.wheel.version, a.wheel.version) ||
        Number(b.wheel.version.includes('+')) - Number(a.wheel.version.includes('+')),
    )
    .map(({ wheel, ...file }) => ({ ...file, version: wheel.version }))[0];
}
