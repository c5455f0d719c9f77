/** scripts/publish.mjs refuses what must not go to npm. What it publishes is what installed.test.ts installs. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cleanEnvironment, REPOSITORY, run } from '../support/npm.js';

const { version } = JSON.parse(readFileSync(join(REPOSITORY, 'package.json'), 'utf8')) as { version: string };
const script = (name: string, ...words: string[]) =>
  run(process.execPath, [join('scripts', name), ...words], REPOSITORY, cleanEnvironment());

describe('publish', () => {
  it('refuses a tag of another version', () => {
    const { status, output } = script('publish.mjs', 'v99.0.0', 'https://example.org/a/b', '--dry-run');
    expect(status).toBe(1);
    expect(output).toContain(`Expected the tag v${version} but received v99.0.0.`);
  });

  it('refuses a repository that is no address', () => {
    const { status, output } = script('publish.mjs', `v${version}`, 'a/b', '--dry-run');
    expect(status).toBe(1);
    expect(output).toContain('Expected the address of the repository but received a/b.');
  });

  it('refuses when the prebuilt addon of a platform is missing', () => {
    const { status, output } = script('publish.mjs', `v${version}`, 'https://example.org/a/b', '--dry-run');
    expect(status).toBe(1);
    expect(output).toMatch(/Expected .*torch\.json but it is not there\. Run `node scripts\/release\.mjs` on [\w-]+\./);
  });
});

it('the version script refuses what is no version', () => {
  const { status, output } = script('version.mjs', '1.2');
  expect(status).toBe(1);
  expect(output).toContain('Expected a version such as 0.2.0 or 0.2.0-rc.1 but received 1.2.');
});
