/**
 * The prebuilt addon of a package. prebuilds/<platform>-<arch>/torch.node, and in torch.json beside it what it was
 * built for.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { sourcesHash } from './compile.mjs';
import { compareVersions, glibcVersion, platformOf } from './host.mjs';

export const prebuiltFolder = (here, platform = platformOf()) => join(here, 'prebuilds', platform);

/** What torch.json of this platform says, or undefined where there is no prebuilt addon. */
export function readPrebuilt(here) {
  const folder = prebuiltFolder(here);
  const record = join(folder, 'torch.json');
  if (!existsSync(join(folder, 'torch.node')) || !existsSync(record)) return undefined;
  return { file: join(folder, 'torch.node'), ...JSON.parse(readFileSync(record, 'utf8')) };
}

const machine = () => ({ napi: process.versions.napi, glibc: glibcVersion() });

/** Why a prebuilt addon cannot be used with a libtorch of this version on this machine; undefined when it can. */
export function whyNotPrebuilt(here, record, version, { napi, glibc } = machine()) {
  if (version !== undefined && compareVersions(version, record.libtorch) !== 0) {
    return `it was built for libtorch ${record.libtorch}, not ${version}`;
  }
  if (Number(napi) < record.napi)
    return `it needs Node-API ${record.napi}, and Node ${process.versions.node} has ${napi}`;
  if (record.glibc !== null && (glibc === undefined || compareVersions(glibc, record.glibc) < 0)) {
    return `it needs glibc ${record.glibc} or newer, and this system has ${glibc ?? 'another C library'}`;
  }
  if (record.sources !== sourcesHash(here)) return 'native/ has changed since it was built';
  return undefined;
}
