/**
 * Checks that imports point down. Between packages, and between the rooms of a package. Types count as imports, too.
 *
 * Not here: import circles (Biome's noImportCycles) and undeclared dependencies (knip).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { packages, root } from './packages.mjs';

/** What each package may depend on. */
const PACKAGES = {
  torch: [],
  run: [],
  processor: ['run'],
  'minicpm-v': ['torch', 'run', 'processor'],
  serve: ['run', 'processor', 'minicpm-v'],
  dashboard: ['run'],
  finetune: ['torch', 'run', 'processor', 'minicpm-v', 'serve', 'dashboard'],
  lab: ['torch', 'run', 'processor', 'minicpm-v', 'finetune'],
};

/** The rooms (folders and files of `src`) of a package from bottom to top: a room imports only from rooms before it. */
const ROOMS = {
  processor: [
    'llms',
    'versions',
    'picture-tokens',
    'video-config',
    'model-config',
    'checkpoint-folder',
    'config-schema',
    'config-flat',
    'config-nested',
    'config',
    'image',
    'video',
    'tokenizer',
    'sample',
    'model-input',
    'chat',
    'media',
    'encode',
    'encode-answers',
    'detokenizer',
  ],
  'minicpm-v': ['model', 'checkpoint', 'adapters', 'generation', 'gguf'],
  serve: ['api', 'engine', 'http'],
  finetune: [
    'version',
    'report',
    'config',
    'parallel',
    'launch',
    'data',
    'hub',
    'engine',
    'checkpoint',
    'train',
    'cli',
  ],
};
/** Public faces: above all rooms, imported by none. */
const FACES = ['index', 'internal', 'adapter-files'];

const IMPORT = /(?:\bfrom\s*|\bimport\s*\(?\s*)(['"])([^'"]+)\1/g;
const COMMENT = /\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm;
const wrong = [];

/** The modules that a source file imports, as written. */
function importsOf(path) {
  const text = readFileSync(path, 'utf8').replace(COMMENT, '');
  return [...text.matchAll(IMPORT)].map((match) => match[2]);
}

const roomOf = (path) => path.split('/')[0].replace(/\.(ts|js)$/, '');

function checkRooms(name, folder) {
  const order = [...ROOMS[name], ...FACES];
  const source = join(root, folder, 'src');
  for (const file of readdirSync(source, { recursive: true }).filter((path) => /\.ts$/.test(path))) {
    const room = roomOf(file);
    if (!order.includes(room)) {
      wrong.push(
        `Expected ${folder}/src/${file} in a known room but received ${room}. Add it to ROOMS in scripts/imports.mjs.`,
      );
      continue;
    }
    for (const module of importsOf(join(source, file)).filter((path) => path.startsWith('.'))) {
      const target = roomOf(posix.normalize(posix.join(posix.dirname(file), module)));
      if (target !== room && order.indexOf(target) >= order.indexOf(room)) {
        wrong.push(
          `Expected imports that point down for ${folder}/src/${file} but received ${module}: ${room} may import ${order.slice(0, order.indexOf(room)).join(', ') || 'no other room'}.`,
        );
      }
    }
  }
}

function checkPackage({ folder, manifest }, folderOf) {
  const name = basename(folder);
  const allowed = PACKAGES[name];
  if (allowed === undefined) {
    wrong.push(`Expected ${folder} in PACKAGES of scripts/imports.mjs but received no entry. Add it.`);
    return;
  }
  const given = { ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.optionalDependencies };
  const dependencies = Object.keys(given).filter((dependency) => folderOf.has(dependency));
  for (const dependency of dependencies.filter((one) => !allowed.includes(basename(folderOf.get(one))))) {
    wrong.push(
      `Expected ${folder}/package.json to depend on ${allowed.join(', ') || 'no other package'} but received ${dependency}.`,
    );
  }
  const { references = [] } = JSON.parse(readFileSync(join(root, folder, 'tsconfig.json'), 'utf8'));
  const referenced = references.map(({ path }) => posix.normalize(posix.join(folder, path))).sort();
  const needed = dependencies.map((dependency) => folderOf.get(dependency)).sort();
  if (referenced.join() !== needed.join()) {
    wrong.push(
      `Expected ${folder}/tsconfig.json to reference what package.json depends on (${needed.join(', ') || 'nothing'}) but received ${referenced.join(', ') || 'nothing'}.`,
    );
  }
  if (ROOMS[name]) checkRooms(name, folder);
}

const folderOf = new Map(packages.map(({ folder, manifest }) => [manifest.name, folder]));
for (const one of packages) checkPackage(one, folderOf);
for (const line of wrong) console.error(line);
process.exitCode = wrong.length === 0 ? 0 : 1;
