/** Which frames of a video are taken: by the published rules, whose numbers are written down here. */
import { describe, expect, it } from 'vitest';
import { evenly, sampleFrames, temporalId } from '../../src/video/sampling.js';

const seconds = { sampling: 'seconds', fps: 1, maxFrames: 128, packing: 1 } as const;
const uniform = { sampling: 'uniform', fps: 3, maxFrames: 180, packing: 3 } as const;

describe('a frame a second', () => {
  it.each([
    [{ frames: 30, fps: 30 }, [0]],
    [{ frames: 31, fps: 30 }, [0, 30]],
    [{ frames: 90, fps: 29.97 }, [0, 29, 59, 89]],
    [{ frames: 1, fps: 25 }, [0]],
  ])('%j', (clip, indices) => {
    expect(sampleFrames(clip, seconds)).toEqual({ indices, packing: 1 });
  });

  it('thins out a longer video from steps of a tenth of a second', () => {
    const { indices } = sampleFrames({ frames: 1620, fps: 60 }, { ...seconds, maxFrames: 16 });
    expect(indices).toEqual([0, 102, 210, 318, 426, 534, 642, 750, 858, 966, 1074, 1182, 1290, 1398, 1506, 1614]);
  });

  it('takes another rate', () => {
    expect(sampleFrames({ frames: 60, fps: 30 }, { ...seconds, fps: 2 }).indices).toEqual([0, 15, 30, 45]);
    expect(sampleFrames({ frames: 60, fps: 30 }, { ...seconds, fps: 0.5 }).indices).toEqual([0]);
  });
});

describe('frames at even distances', () => {
  it('takes the middle of each stretch', () => {
    expect(sampleFrames({ frames: 60, fps: 30 }, uniform)).toEqual({ indices: [5, 15, 25, 35, 45, 55], packing: 1 });
    expect(sampleFrames({ frames: 4, fps: 1 }, uniform)).toEqual({ indices: [0, 1, 2, 3], packing: 1 });
  });

  it('packs frames of a long video, up to a number, and then takes fewer of a second', () => {
    const minutes = (count: number) => sampleFrames({ frames: 1800 * count, fps: 30 }, uniform);
    expect([minutes(1).indices.length, minutes(1).packing]).toEqual([180, 1]);
    expect([minutes(2).indices.length, minutes(2).packing]).toEqual([360, 2]);
    expect([minutes(3).indices.length, minutes(3).packing]).toEqual([540, 3]);
    expect([minutes(9).indices.length, minutes(9).packing]).toEqual([540, 3]);
  });

  it('takes at least one frame, and never more than there are', () => {
    expect(sampleFrames({ frames: 1, fps: 30 }, uniform).indices).toEqual([0]);
    expect(sampleFrames({ frames: 2, fps: 0.1 }, uniform).indices.length).toBeLessThanOrEqual(2);
  });
});

it('counts times in tenths of a second, with the rounding of the published code', () => {
  const clip = { frames: 300, fps: 30 };
  expect([0, 4, 5, 30, 129, 299].map((index) => temporalId(index, clip))).toEqual([0, 1, 2, 10, 42, 99]);
});

it('spreads numbers as numpy does', () => {
  expect(evenly(10, 4)).toEqual([0, 3, 6, 9]);
  expect(evenly(5, 1)).toEqual([0]);
});
