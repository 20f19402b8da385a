// Sums over edges, written by hand: a general compiler lays these loops out badly (edge_sums.py).
//
//   message_sum      out[i, m, r, c]  = sum_{e: j -> i} Y[e, m] w[e, c] x[j, r, c]
//   message_slopes   by Y [e, m]      = sum_{r c} G[i, m, r, c] w[e, c] x[j, r, c]
//                    by w [e, c]      = sum_{m r} G[i, m, r, c] Y[e, m] x[j, r, c]
//                    by x [j, r, c]   = sum_{e: j -> i} w[e, c] sum_m G[i, m, r, c] Y[e, m]
//   message_curvatures, with cotangents dY, dw, dx of the slopes, and the changed message
//                    d[e, r, c]       = w[e, c] dx[j, r, c] + dw[e, c] x[j, r, c]:
//                    by G [i, m, r, c] = sum_{e: j -> i} Y[e, m] d[e, r, c] + dY[e, m] w[e, c] x[j, r, c]
//                    by Y [e, m]      = sum_{r c} G[i, m, r, c] d[e, r, c]
//                    by w [e, c]      = sum_{m r} G[i, m, r, c] (dY[e, m] x[j, r, c] + Y[e, m] dx[j, r, c])
//                    by x [j, r, c]   = sum_{e: j -> i} sum_m G[i, m, r, c] (w dY + dw Y)[e, m, c]
//   sum_rows         out[n, k]        = sum_{e: index[e] = n} values[e, k]
//
// Tensors are contiguous, float or double alike; indices are int64. Edges of one receiver that
// follow one another are summed in registers; edges in any order give the right sums. One thread,
// one order of summation: results repeat bit for bit.
//
// Cost: 2 m r c multiply-adds an edge for the sum, 4 m r c for its slopes, 10 m r c for curvatures.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int64_t kBytes = 64;
#else
constexpr int64_t kBytes = 32;
#endif

// As many channels as one register holds. Loads and stores need no alignment.
template <typename T>
struct Lanes {
  static constexpr int64_t width = kBytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(kBytes)));
  typedef T Loose __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));

  static Vector load(const T* from) { return *reinterpret_cast<const Loose*>(from); }
  static void store(T* to, Vector value) { *reinterpret_cast<Loose*>(to) = value; }
  static T sum(Vector value) {
    T total = 0;
    for (int64_t lane = 0; lane < width; ++lane) total += value[lane];
    return total;
  }
};

// One channel at a time, for what is left of them.
template <typename T>
struct Single {
  static constexpr int64_t width = 1;
  typedef T Vector;

  static Vector load(const T* from) { return *from; }
  static void store(T* to, Vector value) { *to = value; }
  static T sum(Vector value) { return value; }
};

struct Shape {
  int64_t edges, m, rows, channels;
};

// Channels c .. c + width of one row, for the edges first .. last of receiver i.
template <typename T, typename L, int64_t M>
void add_messages(const Shape& s, const T* y, const T* w, const T* x, const int64_t* src, T* out,
                  int64_t first, int64_t last, int64_t r, int64_t c) {
  typename L::Vector sums[M] = {};
  for (int64_t e = first; e < last; ++e) {
    const auto message = L::load(w + e * s.channels + c) *
                         L::load(x + (src[e] * s.rows + r) * s.channels + c);
    for (int64_t m = 0; m < M; ++m) sums[m] += y[e * M + m] * message;
  }
  for (int64_t m = 0; m < M; ++m) {
    T* place = out + (m * s.rows + r) * s.channels + c;
    L::store(place, L::load(place) + sums[m]);
  }
}

template <typename T, int64_t M>
void message_sum(const Shape& s, const T* y, const T* w, const T* x, const int64_t* src,
                 const int64_t* dst, T* out) {
  int64_t last = 0;
  for (int64_t first = 0; first < s.edges; first = last) {
    while (last < s.edges && dst[last] == dst[first]) ++last;
    T* at = out + dst[first] * M * s.rows * s.channels;
    for (int64_t r = 0; r < s.rows; ++r) {
      int64_t c = 0;
      for (; c + Lanes<T>::width <= s.channels; c += Lanes<T>::width)
        add_messages<T, Lanes<T>, M>(s, y, w, x, src, at, first, last, r, c);
      for (; c < s.channels; ++c)
        add_messages<T, Single<T>, M>(s, y, w, x, src, at, first, last, r, c);
    }
  }
}

// Channels c .. c + width of all rows of edge e; y_sums collects the slopes by Y.
template <typename T, typename L, int64_t M>
void add_slopes(const Shape& s, const T* g, const T* y, const T* w, const T* x, T* by_y, T* by_w,
                T* by_x, int64_t c) {
  typename L::Vector weight_sum = {}, y_sums[M] = {};
  const auto weight = L::load(w + c);
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t place = r * s.channels + c;
    const auto sent = L::load(x + place), message = weight * sent;
    typename L::Vector back = {};
    for (int64_t m = 0; m < M; ++m) {
      const auto slope = L::load(g + m * s.rows * s.channels + place);
      back += y[m] * slope;
      y_sums[m] += slope * message;
    }
    weight_sum += back * sent;
    L::store(by_x + place, L::load(by_x + place) + weight * back);
  }
  L::store(by_w + c, weight_sum);
  for (int64_t m = 0; m < M; ++m) by_y[m] += L::sum(y_sums[m]);
}

template <typename T, int64_t M>
void message_slopes(const Shape& s, const T* g, const T* y, const T* w, const T* x,
                    const int64_t* src, const int64_t* dst, T* by_y, T* by_w, T* by_x) {
  const int64_t node = s.rows * s.channels;
  for (int64_t e = 0; e < s.edges; ++e) {
    const T* slopes = g + dst[e] * M * node;
    const T *ye = y + e * M, *we = w + e * s.channels, *xe = x + src[e] * node;
    T *ty = by_y + e * M, *tw = by_w + e * s.channels, *tx = by_x + src[e] * node;
    int64_t c = 0;
    for (; c + Lanes<T>::width <= s.channels; c += Lanes<T>::width)
      add_slopes<T, Lanes<T>, M>(s, slopes, ye, we, xe, ty, tw, tx, c);
    for (; c < s.channels; ++c) add_slopes<T, Single<T>, M>(s, slopes, ye, we, xe, ty, tw, tx, c);
  }
}

// What message_curvatures reads: arguments of the sum and their changes.
template <typename T>
struct Changed {
  const T *y, *w, *x, *dy, *dw, *dx;
};

// Slopes by G for channels c .. c + width of one row, for the edges first .. last of receiver i.
template <typename T, typename L, int64_t M>
void add_changed_messages(const Shape& s, const Changed<T>& a, const int64_t* src, T* out,
                          int64_t first, int64_t last, int64_t r, int64_t c) {
  typename L::Vector sums[M] = {};
  for (int64_t e = first; e < last; ++e) {
    const int64_t edge = e * s.channels + c, node = (src[e] * s.rows + r) * s.channels + c;
    const auto weight = L::load(a.w + edge), sent = L::load(a.x + node);
    const auto message = weight * sent;
    const auto changed = weight * L::load(a.dx + node) + L::load(a.dw + edge) * sent;
    for (int64_t m = 0; m < M; ++m)
      sums[m] += a.y[e * M + m] * changed + a.dy[e * M + m] * message;
  }
  for (int64_t m = 0; m < M; ++m) {
    T* place = out + (m * s.rows + r) * s.channels + c;
    L::store(place, L::load(place) + sums[m]);
  }
}

// Slopes by Y, w and x for channels c .. c + width of all rows of edge e.
template <typename T, typename L, int64_t M>
void add_curvatures(const Shape& s, const T* g, const Changed<T>& a, T* by_y, T* by_w, T* by_x,
                    int64_t c) {
  typename L::Vector weight_sum = {}, y_sums[M] = {};
  const auto weight = L::load(a.w + c), d_weight = L::load(a.dw + c);
  for (int64_t r = 0; r < s.rows; ++r) {
    const int64_t place = r * s.channels + c;
    const auto sent = L::load(a.x + place), d_sent = L::load(a.dx + place);
    const auto changed = weight * d_sent + d_weight * sent;
    typename L::Vector back = {}, d_back = {};
    for (int64_t m = 0; m < M; ++m) {
      const auto slope = L::load(g + m * s.rows * s.channels + place);
      back += a.y[m] * slope;
      d_back += a.dy[m] * slope;
      y_sums[m] += slope * changed;
    }
    weight_sum += back * d_sent + d_back * sent;
    L::store(by_x + place, L::load(by_x + place) + weight * d_back + d_weight * back);
  }
  L::store(by_w + c, weight_sum);
  for (int64_t m = 0; m < M; ++m) by_y[m] += L::sum(y_sums[m]);
}

template <typename T, int64_t M>
void message_curvatures(const Shape& s, const T* g, const Changed<T>& a, const int64_t* src,
                        const int64_t* dst, T* by_g, T* by_y, T* by_w, T* by_x) {
  const int64_t node = s.rows * s.channels;
  int64_t last = 0;
  for (int64_t first = 0; first < s.edges; first = last) {
    while (last < s.edges && dst[last] == dst[first]) ++last;
    T* at = by_g + dst[first] * M * node;
    for (int64_t r = 0; r < s.rows; ++r) {
      int64_t c = 0;
      for (; c + Lanes<T>::width <= s.channels; c += Lanes<T>::width)
        add_changed_messages<T, Lanes<T>, M>(s, a, src, at, first, last, r, c);
      for (; c < s.channels; ++c)
        add_changed_messages<T, Single<T>, M>(s, a, src, at, first, last, r, c);
    }
  }

  for (int64_t e = 0; e < s.edges; ++e) {
    const int64_t from = src[e] * node, w = e * s.channels;
    const T* slopes = g + dst[e] * M * node;
    const Changed<T> own{a.y + e * M,  a.w + w,  a.x + from,
                         a.dy + e * M, a.dw + w, a.dx + from};
    T *ty = by_y + e * M, *tw = by_w + w, *tx = by_x + from;
    int64_t c = 0;
    for (; c + Lanes<T>::width <= s.channels; c += Lanes<T>::width)
      add_curvatures<T, Lanes<T>, M>(s, slopes, own, ty, tw, tx, c);
    for (; c < s.channels; ++c) add_curvatures<T, Single<T>, M>(s, slopes, own, ty, tw, tx, c);
  }
}

template <typename T>
void sum_rows(int64_t edges, int64_t width, const T* values, const int64_t* index, T* out) {
  for (int64_t e = 0; e < edges; ++e) {
    T* to = out + index[e] * width;
    const T* from = values + e * width;
    for (int64_t k = 0; k < width; ++k) to[k] += from[k];
  }
}

// ---- tensors of the compiled network -----------------------------------------------------------

constexpr int32_t kFloat = 6, kDouble = 7;  // numbers of torch's types

template <typename T>
T* data(AtenTensorHandle tensor) {
  void* found = nullptr;
  aoti_torch_get_data_ptr(tensor, &found);
  return static_cast<T*>(found);
}

int64_t size(AtenTensorHandle tensor, int64_t dimension) {
  int64_t found = 0;
  aoti_torch_get_size(tensor, dimension, &found);
  return found;
}

int32_t type_of(AtenTensorHandle tensor) {
  int32_t found = 0;
  aoti_torch_get_dtype(tensor, &found);
  return found;
}

AOTITorchError zeros(int64_t count, const int64_t* sizes, int32_t type, AtenTensorHandle* made) {
  int64_t strides[4], step = 1;
  for (int64_t k = count - 1; k >= 0; --k) {
    strides[k] = step;
    step *= sizes[k];
  }
  const AOTITorchError error = aoti_torch_empty_strided(count, sizes, strides, type, 0, 0, made);
  if (!error && step) std::memset(data<char>(*made), 0, step * (type == kFloat ? 4 : 8));
  return error;
}

// Calls run(number of the type T, number of harmonics M) with both as constants.
template <typename Run>
AOTITorchError choose(int32_t type, int64_t m, Run run) {
  const auto with_type = [&](auto zero) {
    switch (m) {
      case 1: run(zero, std::integral_constant<int64_t, 1>()); return 0;
      case 3: run(zero, std::integral_constant<int64_t, 3>()); return 0;
      case 4: run(zero, std::integral_constant<int64_t, 4>()); return 0;
      case 5: run(zero, std::integral_constant<int64_t, 5>()); return 0;
      case 7: run(zero, std::integral_constant<int64_t, 7>()); return 0;
      case 9: run(zero, std::integral_constant<int64_t, 9>()); return 0;
      case 16: run(zero, std::integral_constant<int64_t, 16>()); return 0;
      case 25: run(zero, std::integral_constant<int64_t, 25>()); return 0;
      default: return 1;
    }
  };
  if (type == kFloat) return with_type(float());
  if (type == kDouble) return with_type(double());
  return 1;
}

}  // namespace

extern "C" {

AOTITorchError aoti_torch_cpu_message_sum(AtenTensorHandle y, AtenTensorHandle w,
                                          AtenTensorHandle x, AtenTensorHandle src,
                                          AtenTensorHandle dst, AtenTensorHandle* out) {
  const Shape s{size(y, 0), size(y, 1), size(x, 1), size(x, 2)};
  const int64_t sizes[] = {size(x, 0), s.m, s.rows, s.channels};
  if (zeros(4, sizes, type_of(x), out)) return 1;
  return choose(type_of(x), s.m, [&](auto zero, auto m) {
    using T = decltype(zero);
    message_sum<T, m()>(s, data<T>(y), data<T>(w), data<T>(x), data<int64_t>(src),
                        data<int64_t>(dst), data<T>(*out));
  });
}

AOTITorchError aoti_torch_cpu_message_slopes(AtenTensorHandle g, AtenTensorHandle y,
                                             AtenTensorHandle w, AtenTensorHandle x,
                                             AtenTensorHandle src, AtenTensorHandle dst,
                                             AtenTensorHandle* by_y, AtenTensorHandle* by_w,
                                             AtenTensorHandle* by_x) {
  const Shape s{size(y, 0), size(y, 1), size(x, 1), size(x, 2)};
  const int64_t y_sizes[] = {s.edges, s.m}, w_sizes[] = {s.edges, s.channels};
  const int64_t x_sizes[] = {size(x, 0), s.rows, s.channels};
  if (zeros(2, y_sizes, type_of(x), by_y) || zeros(2, w_sizes, type_of(x), by_w) ||
      zeros(3, x_sizes, type_of(x), by_x))
    return 1;
  return choose(type_of(x), s.m, [&](auto zero, auto m) {
    using T = decltype(zero);
    message_slopes<T, m()>(s, data<T>(g), data<T>(y), data<T>(w), data<T>(x), data<int64_t>(src),
                           data<int64_t>(dst), data<T>(*by_y), data<T>(*by_w), data<T>(*by_x));
  });
}

AOTITorchError aoti_torch_cpu_message_curvatures(
    AtenTensorHandle g, AtenTensorHandle y, AtenTensorHandle w, AtenTensorHandle x,
    AtenTensorHandle src, AtenTensorHandle dst, AtenTensorHandle dy, AtenTensorHandle dw,
    AtenTensorHandle dx, AtenTensorHandle* by_g, AtenTensorHandle* by_y, AtenTensorHandle* by_w,
    AtenTensorHandle* by_x) {
  const Shape s{size(y, 0), size(y, 1), size(x, 1), size(x, 2)};
  const int64_t g_sizes[] = {size(g, 0), s.m, s.rows, s.channels};
  const int64_t y_sizes[] = {s.edges, s.m}, w_sizes[] = {s.edges, s.channels};
  const int64_t x_sizes[] = {size(x, 0), s.rows, s.channels};
  if (zeros(4, g_sizes, type_of(x), by_g) || zeros(2, y_sizes, type_of(x), by_y) ||
      zeros(2, w_sizes, type_of(x), by_w) || zeros(3, x_sizes, type_of(x), by_x))
    return 1;
  return choose(type_of(x), s.m, [&](auto zero, auto m) {
    using T = decltype(zero);
    const Changed<T> arguments{data<T>(y),  data<T>(w),  data<T>(x),
                               data<T>(dy), data<T>(dw), data<T>(dx)};
    message_curvatures<T, m()>(s, data<T>(g), arguments, data<int64_t>(src), data<int64_t>(dst),
                               data<T>(*by_g), data<T>(*by_y), data<T>(*by_w), data<T>(*by_x));
  });
}

AOTITorchError aoti_torch_cpu_sum_rows(AtenTensorHandle values, AtenTensorHandle index,
                                       int64_t count, AtenTensorHandle* out) {
  const int64_t edges = size(values, 0), width = size(values, 1), sizes[] = {count, width};
  if (zeros(2, sizes, type_of(values), out)) return 1;
  return choose(type_of(values), 1, [&](auto zero, auto) {
    using T = decltype(zero);
    sum_rows<T>(edges, width, data<T>(values), data<int64_t>(index), data<T>(*out));
  });
}
}
