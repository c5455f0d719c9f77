;; The two inner loops of the bicubic resize, as text. See resize.ts; four 32-bit lanes at once. Source of resize-kernel.ts:
;;   npx wat2wasm --output=resize-kernel.wasm packages/processor/src/image/resize-kernel.wat && base64 --wrap=0 resize-kernel.wasm
;; All pointers are byte addresses. `first` and `count` hold one int32 per output position, `weights` `size` int32 each,
;; fixed point with 22 fractional bits. Sums start at one half and are clipped to 0..255.
(module
  (memory (export "memory") 1)

  ;; Along x: `rows` rows of RGB bytes, `stride` bytes apart, become rows of `width` pixels. Lanes are r, g, b and one to
  ;; spare: it reads one byte past the input and writes one past the output.
  (func (export "columns")
    (param $input i32) (param $stride i32) (param $rows i32)
    (param $first i32) (param $count i32) (param $weights i32) (param $size i32)
    (param $output i32) (param $width i32)
    (local $x i32) (local $taps i32) (local $at i32) (local $weight i32) (local $sum v128)
    (loop $eachRow
      (local.set $x (i32.const 0))
      (loop $eachColumn
        (local.set $taps (i32.load (i32.add (local.get $count) (i32.shl (local.get $x) (i32.const 2)))))
        (local.set $at (i32.add (local.get $input) (i32.mul (i32.const 3)
          (i32.load (i32.add (local.get $first) (i32.shl (local.get $x) (i32.const 2)))))))
        (local.set $weight (i32.add (local.get $weights)
          (i32.shl (i32.mul (local.get $x) (local.get $size)) (i32.const 2))))
        (local.set $sum (i32x4.splat (i32.const 0x200000)))
        (loop $eachTap
          (local.set $sum (i32x4.add (local.get $sum) (i32x4.mul
            (i32x4.extend_low_i16x8_u (i16x8.extend_low_i8x16_u (v128.load32_zero (local.get $at))))
            (v128.load32_splat (local.get $weight)))))
          (local.set $at (i32.add (local.get $at) (i32.const 3)))
          (local.set $weight (i32.add (local.get $weight) (i32.const 4)))
          (br_if $eachTap (local.tee $taps (i32.sub (local.get $taps) (i32.const 1)))))
        (local.set $sum (i32x4.shr_s (local.get $sum) (i32.const 22)))
        (local.set $sum (i16x8.narrow_i32x4_s (local.get $sum) (local.get $sum)))
        (v128.store32_lane 0 (local.get $output) (i8x16.narrow_i16x8_u (local.get $sum) (local.get $sum)))
        (local.set $output (i32.add (local.get $output) (i32.const 3)))
        (br_if $eachColumn (i32.lt_u
          (local.tee $x (i32.add (local.get $x) (i32.const 1))) (local.get $width))))
      (local.set $input (i32.add (local.get $input) (local.get $stride)))
      (br_if $eachRow (local.tee $rows (i32.sub (local.get $rows) (i32.const 1))))))

  ;; Along y: makes `rows` rows of `stride` bytes. Sixteen bytes at once: it reads and writes up to fifteen past the end.
  (func (export "rows")
    (param $input i32) (param $stride i32) (param $rows i32)
    (param $first i32) (param $count i32) (param $weights i32) (param $size i32)
    (param $output i32)
    (local $x i32) (local $taps i32) (local $at i32) (local $tap i32) (local $weight v128)
    (local $bytes v128) (local $half v128) (local $a v128) (local $b v128) (local $c v128) (local $d v128)
    (loop $eachRow
      (local.set $x (i32.const 0))
      (loop $eachBlock
        (local.set $taps (i32.load (local.get $count)))
        (local.set $at (i32.add (i32.add (local.get $input) (local.get $x))
          (i32.mul (i32.load (local.get $first)) (local.get $stride))))
        (local.set $tap (local.get $weights))
        (local.set $a (i32x4.splat (i32.const 0x200000)))
        (local.set $b (local.get $a))
        (local.set $c (local.get $a))
        (local.set $d (local.get $a))
        (loop $eachTap
          (local.set $bytes (v128.load (local.get $at)))
          (local.set $weight (v128.load32_splat (local.get $tap)))
          (local.set $half (i16x8.extend_low_i8x16_u (local.get $bytes)))
          (local.set $a (i32x4.add (local.get $a)
            (i32x4.mul (i32x4.extend_low_i16x8_u (local.get $half)) (local.get $weight))))
          (local.set $b (i32x4.add (local.get $b)
            (i32x4.mul (i32x4.extend_high_i16x8_u (local.get $half)) (local.get $weight))))
          (local.set $half (i16x8.extend_high_i8x16_u (local.get $bytes)))
          (local.set $c (i32x4.add (local.get $c)
            (i32x4.mul (i32x4.extend_low_i16x8_u (local.get $half)) (local.get $weight))))
          (local.set $d (i32x4.add (local.get $d)
            (i32x4.mul (i32x4.extend_high_i16x8_u (local.get $half)) (local.get $weight))))
          (local.set $at (i32.add (local.get $at) (local.get $stride)))
          (local.set $tap (i32.add (local.get $tap) (i32.const 4)))
          (br_if $eachTap (local.tee $taps (i32.sub (local.get $taps) (i32.const 1)))))
        (v128.store (i32.add (local.get $output) (local.get $x))
          (i8x16.narrow_i16x8_u
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (local.get $a) (i32.const 22)) (i32x4.shr_s (local.get $b) (i32.const 22)))
            (i16x8.narrow_i32x4_s
              (i32x4.shr_s (local.get $c) (i32.const 22)) (i32x4.shr_s (local.get $d) (i32.const 22)))))
        (br_if $eachBlock (i32.lt_u
          (local.tee $x (i32.add (local.get $x) (i32.const 16))) (local.get $stride))))
      (local.set $first (i32.add (local.get $first) (i32.const 4)))
      (local.set $count (i32.add (local.get $count) (i32.const 4)))
      (local.set $weights (i32.add (local.get $weights) (i32.shl (local.get $size) (i32.const 2))))
      (local.set $output (i32.add (local.get $output) (local.get $stride)))
      (br_if $eachRow (local.tee $rows (i32.sub (local.get $rows) (i32.const 1)))))))
