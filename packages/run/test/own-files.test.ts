/** What a run wrote is known by its list: by names, sizes and checksums, in a folder that may be moved. */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { OWN_FILES, OwnFiles, tfRecord } from '../src/index.js';

let folder: string;
let own: OwnFiles;
const at = (...name: string[]): string => join(folder, ...name);
const put = (name: string, text: string): void => own.put(name, (path) => writeFileSync(path, text));
/** As a later process reads the list. */
const again = (): OwnFiles => new OwnFiles(folder);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'own-'));
  own = new OwnFiles(folder);
  own.open();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A folder with files and a manifest, as a checkpoint has one. */
function seal(path: string, files: Readonly<Record<string, string>>): void {
  mkdirSync(path, { recursive: true });
  const listed = Object.entries(files).map(([name, text]) => {
    writeFileSync(join(path, name), text);
    return { name, bytes: text.length, sha256: createHash('sha256').update(text).digest('hex') };
  });
  writeFileSync(join(path, 'manifest.json'), JSON.stringify({ step: 8, files: listed }));
}

describe('a file', () => {
  it('is own as long as it is what the run wrote', () => {
    put('run.json', '{}');
    put('eval/step-1/answers.jsonl', 'a\n');
    for (const list of [own, again()]) {
      expect(list.ownership('run.json')).toBe('own');
      expect(list.ownership('eval/step-1/answers.jsonl')).toBe('own');
      expect(list.ownership('eval')).toBe('own');
      expect(list.ownership('nowhere')).toBe('absent');
    }
    expect(readdirSync(folder).sort()).toEqual(['eval', 'run.json', OWN_FILES]);
  });

  it('is changed with another content, also of the same size and time', () => {
    put('run.json', '{"a":1}');
    const before = new Date(1e12);
    utimesSync(at('run.json'), before, before);
    expect(own.ownership('run.json')).toBe('own');
    writeFileSync(at('run.json'), '{"a":2}');
    utimesSync(at('run.json'), before, before);
    for (const list of [own, again()]) expect(list.ownership('run.json')).toBe('changed');
    expect(() => put('run.json', '{}')).toThrow(/run\.json .*was not written by this run, or changed since/);
    expect(readFileSync(at('run.json'), 'utf8')).toBe('{"a":2}');
  });

  it('is foreign if the run wrote none of that name, or if it is a link', () => {
    writeFileSync(at('notes.txt'), 'mine');
    put('run.json', '{}');
    renameSync(at('run.json'), at('elsewhere'));
    symlinkSync(at('elsewhere'), at('run.json'));
    expect(own.ownership('notes.txt')).toBe('foreign');
    expect(again().ownership('run.json')).toBe('foreign');
    expect(() => put('notes.txt', 'of the run')).toThrow(/notes\.txt/);
  });

  it('in a folder that became a link to another place is foreign', () => {
    put('logs/a', 'x');
    const other = mkdtempSync(join(tmpdir(), 'own-other-'));
    cpSync(at('logs'), other, { recursive: true });
    rmSync(at('logs'), { recursive: true });
    symlinkSync(other, at('logs'));
    again().remove(['logs/a']);
    expect(existsSync(join(other, 'a'))).toBe(true);
    rmSync(other, { recursive: true });
  });

  it('may be written again; every content it had is own', () => {
    put('run.json', 'first');
    const first = readFileSync(at('run.json'));
    put('run.json', 'second');
    expect(again().ownership('run.json')).toBe('own');
    writeFileSync(at('run.json'), first); // as after a kill between the list and the new name
    expect(again().ownership('run.json')).toBe('own');
  });
});

describe('a file that grows', () => {
  it('is own while whole lines follow, and exactly when it is complete', () => {
    own.noteGrowing('events.jsonl');
    writeFileSync(at('events.jsonl'), '{"event":"a"}\n{"event":"b"}\n{"eve');
    expect(again().ownership('events.jsonl')).toBe('own');
    writeFileSync(at('events.jsonl'), '{"event":"a"}\n');
    own.noteGrown('events.jsonl');
    expect(again().ownership('events.jsonl')).toBe('own');
    appendFileSync(at('events.jsonl'), '{"event":"b"}\n');
    expect(again().ownership('events.jsonl')).toBe('changed');
  });

  it('is changed when something else follows, or its beginning is another', () => {
    writeFileSync(at('events.jsonl'), '{"event":"a"}\n');
    own.note('events.jsonl');
    own.noteGrowing('events.jsonl');
    appendFileSync(at('events.jsonl'), 'my notes\n');
    expect(again().ownership('events.jsonl')).toBe('changed');
    writeFileSync(at('events.jsonl'), '{"event":"x"}\n{"event":"b"}\n');
    expect(again().ownership('events.jsonl')).toBe('changed');
  });

  it('as TensorBoard has it', () => {
    own.noteGrowing('events.out.tfevents.1');
    writeFileSync(at('events.out.tfevents.1'), tfRecord(Buffer.from('abc')));
    expect(again().ownership('events.out.tfevents.1')).toBe('own');
    appendFileSync(at('events.out.tfevents.1'), 'something that is no record at all');
    expect(again().ownership('events.out.tfevents.1')).toBe('changed');
  });
});

describe('a sealed folder', () => {
  beforeEach(() => {
    seal(at('aside'), { 'model.safetensors': 'weights', 'run.json': '{}' });
    own.noteFolder('checkpoint-8', at('aside'));
    renameSync(at('aside'), at('checkpoint-8'));
    own.seeFolder('checkpoint-8');
  });

  it('is own with the files of its manifest, and with nothing else in it', () => {
    for (const list of [own, again()]) expect(list.ownership('checkpoint-8')).toBe('own');
    writeFileSync(at('checkpoint-8', 'README.md'), 'mine');
    for (const list of [own, again()]) {
      expect(list.ownership('checkpoint-8')).toBe('foreign');
      expect(list.others('checkpoint-8')).toEqual(['checkpoint-8/README.md']);
    }
  });

  it.each(['model.safetensors', 'manifest.json'])('is not with a changed %s', (name) => {
    const text = readFileSync(at('checkpoint-8', name), 'utf8');
    writeFileSync(at('checkpoint-8', name), text.replace('w', 'W').replace('8', '9'));
    for (const list of [own, again()]) expect(list.others('checkpoint-8')).toContain(`checkpoint-8/${name}`);
  });

  it('of another run is foreign, whatever its own manifest says', () => {
    seal(at('checkpoint-9'), { 'model.safetensors': 'of another run' });
    expect(own.ownership('checkpoint-9')).toBe('foreign');
  });
});

describe('the list', () => {
  it('is as good in a folder that was moved, renamed or copied', () => {
    put('run.json', '{}');
    const moved = `${folder} moved`;
    cpSync(folder, moved, { recursive: true });
    expect(new OwnFiles(moved).ownership('run.json')).toBe('own');
    rmSync(moved, { recursive: true });
  });

  it('knows whether the first step was taken', () => {
    expect(again().began).toBe(false);
    own.begin();
    own.begin();
    expect(again().began).toBe(true);
    expect(readFileSync(own.path, 'utf8').match(/began/g)).toHaveLength(1);
  });

  it('survives a line that a killed process did not finish', () => {
    put('run.json', '{}');
    appendFileSync(own.path, '{"file":"notes.txt","by');
    const next = again();
    next.put('profile.json', (path) => writeFileSync(path, '[]'));
    expect(again().ownership('run.json')).toBe('own');
    expect(again().ownership('profile.json')).toBe('own');
  });

  it('of somebody else is no list', () => {
    writeFileSync(own.path, '{"file":"notes.txt","bytes":4,"sha256":""}\n');
    expect(again().exists).toBe(false);
    expect(() => again().open()).toThrow(/EEXIST/);
  });

  it('lets only what is own be removed, and the folders that are empty then', () => {
    put('run.json', '{}');
    put('eval/step-1/answers.jsonl', 'a\n');
    put('eval/step-2/answers.jsonl', 'b\n');
    writeFileSync(at('eval', 'step-2', 'answers.jsonl'), 'changed');
    mkdirSync(at('logs'));
    writeFileSync(at('logs', 'notes.txt'), 'mine');
    const next = again();
    expect(next.names).toEqual(['eval/step-1/answers.jsonl', 'eval/step-2/answers.jsonl', 'run.json']);
    next.remove(next.names);
    expect(readdirSync(folder, { recursive: true }).sort()).toEqual([
      'eval',
      'eval/step-2',
      'eval/step-2/answers.jsonl',
      'logs',
      'logs/notes.txt',
    ]);
  });
});
