/** What a process is to a run, from its environment and flags. */
import { UserError } from '@minicpm-finetune/run';
import { describe, expect, it, vi } from 'vitest';
import { chooseGpu, gpuEnvironment, requireOwnGpu, SHARED_GPUS } from '../../src/launch/gpus.js';
import { type LaunchFlags, placeFromEnvironment } from '../../src/launch/place.js';
import { firstNode, tasksPerNode } from '../../src/launch/slurm.js';

const NONE: LaunchFlags = { nprocPerNode: null, nnodes: 1, nodeRank: null, masterAddr: null, masterPort: null };
const TORCHRUN = {
  RANK: '3',
  WORLD_SIZE: '4',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '2',
  MASTER_ADDR: '10.0.0.1',
  MASTER_PORT: '29500',
};
const SLURM = {
  SLURM_PROCID: '5',
  SLURM_NTASKS: '7',
  SLURM_LOCALID: '1',
  SLURM_NODEID: '2',
  SLURM_NODELIST: 'gpu[03-05],login1',
  SLURM_TASKS_PER_NODE: '2(x3),1',
  SLURM_JOB_ID: '1234567',
};

const place = (env: Record<string, string>, flags: Partial<LaunchFlags> = {}, device = 'cpu') =>
  placeFromEnvironment(env, { ...NONE, ...flags }, device);

function refusal(env: Record<string, string>, flags: Partial<LaunchFlags> = {}, device = 'cpu'): string {
  try {
    place(env, flags, device);
  } catch (error) {
    if (error instanceof UserError) return error.format();
    throw error;
  }
  throw new Error('nothing was refused');
}

describe('without anything said', () => {
  it('a process is alone', () => {
    for (const env of [{}, { WORLD_SIZE: '1' }, { ...TORCHRUN, RANK: '0', WORLD_SIZE: '1' }, { SLURM_JOB_ID: '3' }])
      expect(place(env as Record<string, string>)).toEqual({ kind: 'alone', idle: [] });
    expect(place({}, { nprocPerNode: '1' })).toEqual({ kind: 'alone', idle: [] });
    expect(place({}, { nprocPerNode: 'auto' })).toEqual({ kind: 'alone', idle: [] });
    const meeting = { masterAddr: '10.0.0.1', masterPort: 29_500 };
    expect(place({}, meeting)).toEqual({ kind: 'alone', idle: ['--master_addr', '--master_port'] });
  });
});

describe('torchrun', () => {
  it('says where a process is', () => {
    const wanted = { rank: 3, size: 4, localRank: 1, localSize: 2, masterAddr: '10.0.0.1', masterPort: 29_500 };
    expect(place(TORCHRUN)).toEqual({ kind: 'rank', place: wanted });
  });

  it('may serve the store itself, once for each attempt', () => {
    const env = { ...TORCHRUN, TORCHELASTIC_USE_AGENT_STORE: 'True', TORCHELASTIC_RESTART_COUNT: '2' };
    expect(place(env)).toMatchObject({ place: { served: true, prefix: 'minicpm-finetune/2/' } });
  });

  it('is refused where its variables make no sense', () => {
    const { MASTER_ADDR: _, ...without } = TORCHRUN;
    expect(refusal({ ...TORCHRUN, WORLD_SIZE: '0' })).toContain('an integer of at least 1 for WORLD_SIZE');
    expect(refusal({ ...TORCHRUN, RANK: '4' })).toContain('Expected a rank below WORLD_SIZE=4 for RANK');
    expect(refusal({ ...TORCHRUN, RANK: 'x' })).toContain('for RANK but received "x"');
    expect(refusal({ WORLD_SIZE: '4' })).toContain('Expected the variable RANK');
    expect(refusal(without)).toContain('Expected the variable MASTER_ADDR');
    expect(refusal({ ...TORCHRUN, MASTER_ADDR: '127.0.0.1' })).toContain('that other machines reach for MASTER_ADDR');
    expect(refusal(TORCHRUN, { nprocPerNode: '2' })).toContain('both RANK and WORLD_SIZE and --nproc_per_node');
  });
});

describe('Slurm', () => {
  it('says where a process is', () => {
    const wanted = { rank: 5, size: 7, localRank: 1, localSize: 2, masterAddr: 'gpu03', masterPort: 24_567 };
    expect(place(SLURM)).toEqual({ kind: 'rank', place: wanted });
  });

  it('has lists of nodes and tasks in short', () => {
    const lists = ['a', 'a,b', 'n[1-3]', 'n[07,09-12],m', 'n[001-003]-ib,x', 'gpu-a[2]'];
    expect(lists.map(firstNode)).toEqual(['a', 'a', 'n1', 'n07', 'n001-ib', 'gpu-a2']);
    expect(tasksPerNode('2(x3),1')).toEqual([2, 2, 2, 1]);
    expect(tasksPerNode('4')).toEqual([4]);
  });

  it('is refused incomplete, and yields to flags', () => {
    const { SLURM_LOCALID: _, ...without } = SLURM;
    expect(refusal(without)).toContain('Expected SLURM_LOCALID');
    expect(place(SLURM, { nprocPerNode: '2' })).toMatchObject({ kind: 'launcher', plan: { size: 2 } });
  });
});

describe('flags', () => {
  const twoNodes = { nnodes: 2, nodeRank: 1, masterAddr: '10.0.0.1', nprocPerNode: '2' };

  it('make a process the launcher of its machine', () => {
    const plan = { firstRank: 0, localSize: 3, size: 3, masterAddr: '127.0.0.1', masterPort: 0, gpus: [] };
    expect(place({}, { nprocPerNode: '3' })).toEqual({ kind: 'launcher', plan });
    expect(place({}, twoNodes)).toEqual({
      kind: 'launcher',
      plan: { firstRank: 2, localSize: 2, size: 4, masterAddr: '10.0.0.1', masterPort: 29_500, gpus: [] },
    });
  });

  it('choose a GPU for each process', () => {
    const env = { CUDA_VISIBLE_DEVICES: '2,5,7' };
    expect(place(env, { nprocPerNode: 'auto' }, 'auto')).toMatchObject({ plan: { size: 3, gpus: ['2', '5', '7'] } });
    expect(place(env, { nprocPerNode: '2' }, 'cuda')).toMatchObject({ plan: { gpus: ['2', '5'] } });
    expect(refusal(env, { nprocPerNode: '4' }, 'cuda')).toContain('at most one process per GPU (3)');
    expect(place(env, { nprocPerNode: '4' }, 'cpu')).toMatchObject({ plan: { size: 4, gpus: [] } });
    expect(gpuEnvironment(['2', '5'], 1, env)).toEqual({ CUDA_VISIBLE_DEVICES: '5' });
    expect(gpuEnvironment([], 1, env)).toEqual({});
  });

  it('of torchrun and Slurm take theirs, and need to know it', () => {
    vi.stubEnv('CUDA_VISIBLE_DEVICES', '2,5');
    const second = { localRank: 1, localSize: 2 };
    expect(() => requireOwnGpu(second)).toThrow('Expected to know the GPUs of this machine, for 2 processes');
    expect(() => chooseGpu({ localRank: 1, localSize: 3 })).toThrow('at most one process per GPU (2)');
    chooseGpu(second);
    expect(process.env.CUDA_VISIBLE_DEVICES).toBe('5');
    expect(() => requireOwnGpu(second)).not.toThrow();
    expect(() => chooseGpu(second), 'one for two').toThrow('at most one process per GPU (1)');
    vi.stubEnv('SLURM_GPUS_PER_TASK', '1');
    chooseGpu(second);
    expect(process.env.CUDA_VISIBLE_DEVICES).toBe('5');
    vi.unstubAllEnvs();
  });

  it('share GPUs where a test asks for it, each with a host of its own for NCCL', () => {
    const env = { CUDA_VISIBLE_DEVICES: '3', [SHARED_GPUS]: '1' };
    expect(place(env, { nprocPerNode: '2' }, 'cuda')).toMatchObject({ plan: { size: 2, gpus: ['3'] } });
    expect(gpuEnvironment(['3'], 1, env)).toMatchObject({ CUDA_VISIBLE_DEVICES: '3', NCCL_HOSTID: 'process-1' });
  });

  it('are refused where they make no sense', () => {
    expect(refusal({}, { nprocPerNode: '0' })).toContain('an integer of at least 1, or auto for --nproc_per_node');
    expect(refusal({}, { ...twoNodes, nodeRank: 2 })).toContain('a number below --nnodes 2 for --node_rank');
    expect(refusal({}, { ...twoNodes, nodeRank: null })).toContain('Expected --node_rank with --nnodes above 1');
    expect(refusal({}, { ...twoNodes, masterAddr: null })).toContain('Expected --master_addr with --nnodes above 1');
    for (const masterAddr of ['127.0.0.1', 'localhost', '::1'])
      expect(refusal({}, { ...twoNodes, masterAddr })).toContain(
        `other machines reach for --master_addr but received ${masterAddr}`,
      );
  });
});
