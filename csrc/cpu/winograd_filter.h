// Winograd's minimal filtering in one dimension: F(m, r) gives m neighbouring outputs of a filter
// of r taps with m + r - 1 multiplications instead of m r.
//
//     y = A^T [(G g) * (B^T d)]        d: m + r - 1 inputs, g: r taps, y: m outputs
//
// is the product of two polynomials, evaluated at m + r - 2 points and infinity and interpolated.
// In two dimensions each matrix is applied to the columns and then to the rows. The denominators of
// the interpolation stand in G, so that B and A are exact in binary.
//
// The form is linear in each of d, g and y, so that the gradient of g is read off its transposes,
//
//     g = G^T [(A y) * (B^T d)],
//
// of which A has points in pairs {1, 2}, {3, 4} and {0, 5} here, which share most of the
// arithmetic.
//
// Rounding grows with the spread of the points' powers. F(2, 3): 0, 1, -1; its error is below that
// of a sum of products in order. Six points, F(4, 3), F(3, 4) and F(2, 5): 0, +-5/8, +-3/2, whose
// error is half that of the usual 0, +-1, +-2 and least among the simple fractions tried (1/2, 5/8,
// 3/4 with 3/2). F(3, 3): 0, 5/8, 3/2, -1, nearly the best simple fractions too. Tried: eight
// points along one axis, the best being 0, +-1/2, +-1, +-2: F(2, 7) and F(6, 3) have more than
// twice the error of F.conv2d at 64 channels, F(4, 5) at 32.

template <class C, int kOutputs, int kTaps>
struct Filter;

// An axis along which the window has one tap.
template <class C>
struct Filter<C, 1, 1> {
  using V = Vector<C>;

  HANDCONV_INLINE static void transform_input(const V (&d)[1], V (&t)[1]) { t[0] = d[0]; }
  HANDCONV_INLINE static void transform_weight(const V (&g)[1], V (&u)[1]) { u[0] = g[0]; }
  HANDCONV_INLINE static void transform_output(const V (&m)[1], V (&y)[1]) { y[0] = m[0]; }
};

template <class C>
struct Filter<C, 2, 3> {
  using V = Vector<C>;

  HANDCONV_INLINE static void transform_input(const V (&d)[4], V (&t)[4]) {
    t[0] = d[2] - d[0];
    t[1] = d[2] + d[1];
    t[2] = d[2] - d[1];
    t[3] = d[3] - d[1];
  }
  HANDCONV_INLINE static void transform_weight(const V (&g)[3], V (&u)[4]) {
    const V half = broadcast<C>(0.5f), ends = half * (g[0] + g[2]), middle = half * g[1];
    u[0] = -g[0];
    u[1] = ends + middle;
    u[2] = ends - middle;
    u[3] = g[2];
  }
  HANDCONV_INLINE static void transform_output(const V (&m)[4], V (&y)[2]) {
    y[0] = m[0] + (m[1] + m[2]);
    y[1] = (m[1] - m[2]) + m[3];
  }

  // The two points of each pair.
  static constexpr int kPairs = 2;
  static constexpr int kPair[kPairs][2] = {{1, 2}, {0, 3}};

  // A y.
  HANDCONV_INLINE static void transform_output_gradient(const V (&y)[2], V (&m)[4]) {
    m[0] = y[0];
    m[1] = y[0] + y[1];
    m[2] = y[0] - y[1];
    m[3] = y[1];
  }
  // The part of G^T u that comes from the points of a pair.
  template <int kIndex>
  HANDCONV_INLINE static void weight_gradient_of_pair(V first, V second, V (&g)[3]) {
    const V half = broadcast<C>(0.5f);
    g[0] = kIndex == 0 ? half * (first + second) : -first;
    g[1] = kIndex == 0 ? half * (first - second) : V{};
    g[2] = kIndex == 0 ? g[0] : second;
  }
  // G^T u.
  HANDCONV_INLINE static void transform_weight_gradient(const V (&u)[4], V (&g)[3]) {
    V middle[3];
    weight_gradient_of_pair<0>(u[1], u[2], middle);
    g[0] = middle[0] - u[0];
    g[1] = middle[1];
    g[2] = middle[2] + u[3];
  }
};

template <class C>
struct Filter<C, 3, 3> {
  using V = Vector<C>;

  static constexpr double a = 5.0 / 8, b = 3.0 / 2, c = -1;

  // Polynomials that vanish at all points but one: x (x - a) (x - b) (x - c) without one factor.
  HANDCONV_INLINE static void transform_input(const V (&d)[5], V (&t)[5]) {
    t[0] = cubic(d[0], d[1], d[2], d[3]);
    t[1] = quadratic(b, c, d);
    t[2] = quadratic(a, c, d);
    t[3] = quadratic(a, b, d);
    t[4] = cubic(d[1], d[2], d[3], d[4]);
  }
  // g0 + g1 x + g2 x^2 at the points, over the derivative of the polynomial of all points there.
  HANDCONV_INLINE static void transform_weight(const V (&g)[3], V (&u)[5]) {
    u[0] = constant(-1 / (a * b * c)) * g[0];
    u[1] = at_point(a, 1 / (a * (a - b) * (a - c)), g);
    u[2] = at_point(b, 1 / (b * (b - a) * (b - c)), g);
    u[3] = at_point(c, 1 / (c * (c - a) * (c - b)), g);
    u[4] = g[2];
  }
  HANDCONV_INLINE static void transform_output(const V (&m)[5], V (&y)[3]) {
    y[0] = (m[0] + m[1]) + (m[2] + m[3]);
    y[1] = fma(constant(a), m[1], fma(constant(b), m[2], constant(c) * m[3]));
    y[2] = fma(constant(a * a), m[1], fma(constant(b * b), m[2], fma(constant(c * c), m[3], m[4])));
  }

 private:
  HANDCONV_INLINE static V constant(double value) { return broadcast(static_cast<C>(value)); }
  HANDCONV_INLINE static V cubic(V d0, V d1, V d2, V d3) {
    return fma(constant(-a * b * c), d0,
               fma(constant(a * b + a * c + b * c), d1, fma(constant(-a - b - c), d2, d3)));
  }
  HANDCONV_INLINE static V quadratic(double p, double q, const V (&d)[5]) {
    return fma(constant(p * q), d[1], fma(constant(-p - q), d[2], d[3]));
  }
  HANDCONV_INLINE static V at_point(double point, double scale, const V (&g)[3]) {
    return constant(scale) * fma(constant(point), fma(constant(point), g[2], g[1]), g[0]);
  }
};

// Six points.
template <class C, int kOutputs, int kTaps>
struct Filter {
  static_assert(kOutputs + kTaps == 7);
  using V = Vector<C>;

  static constexpr double a = 5.0 / 8, b = 3.0 / 2;
  static constexpr double aa = a * a, bb = b * b;

  // Polynomials that vanish at all points but one: x (x^2 - a^2) (x^2 - b^2) without one factor.
  HANDCONV_INLINE static void transform_input(const V (&d)[6], V (&t)[6]) {
    const V product = constant(aa * bb), sum = constant(-aa - bb);
    t[0] = fma(product, d[0], fma(sum, d[2], d[4]));
    t[5] = fma(product, d[1], fma(sum, d[3], d[5]));
    const V even_a = fma(constant(-bb), d[2], d[4]), odd_a = fma(constant(-bb), d[1], d[3]);
    t[1] = fma(constant(a), odd_a, even_a);
    t[2] = fma(constant(-a), odd_a, even_a);
    const V even_b = fma(constant(-aa), d[2], d[4]), odd_b = fma(constant(-aa), d[1], d[3]);
    t[3] = fma(constant(b), odd_b, even_b);
    t[4] = fma(constant(-b), odd_b, even_b);
  }
  // g0 + g1 x + g2 x^2 + ... at the points, over the derivative of the polynomial of all points
  // there.
  HANDCONV_INLINE static void transform_weight(const V (&g)[kTaps], V (&u)[6]) {
    constexpr double at_a = 1 / (2 * aa * (aa - bb)), at_b = 1 / (2 * bb * (bb - aa));
    u[0] = constant(1 / (aa * bb)) * g[0];
    const V even_a = constant(at_a) * every_other(aa, g, 0), odd_a = every_other(aa, g, 1);
    u[1] = fma(constant(a * at_a), odd_a, even_a);
    u[2] = fma(constant(-a * at_a), odd_a, even_a);
    const V even_b = constant(at_b) * every_other(bb, g, 0), odd_b = every_other(bb, g, 1);
    u[3] = fma(constant(b * at_b), odd_b, even_b);
    u[4] = fma(constant(-b * at_b), odd_b, even_b);
    u[5] = g[kTaps - 1];
  }
  HANDCONV_INLINE static void transform_output(const V (&m)[6], V (&y)[kOutputs]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
    y[0] = m[0] + (even_a + even_b);
    double power_a = 1, power_b = 1;
#pragma GCC unroll 4
    for (int j = 1; j < kOutputs; ++j) {
      power_a *= a;
      power_b *= b;
      const V of_a = j % 2 == 0 ? even_a : odd_a, of_b = j % 2 == 0 ? even_b : odd_b;
      const V rest =
          j < kOutputs - 1 ? constant(power_b) * of_b : fma(constant(power_b), of_b, m[5]);
      y[j] = fma(constant(power_a), of_a, rest);
    }
  }

  // The two points of each pair.
  static constexpr int kPairs = 3;
  static constexpr int kPair[kPairs][2] = {{1, 2}, {3, 4}, {0, 5}};

  // A y.
  HANDCONV_INLINE static void transform_output_gradient(const V (&y)[kOutputs], V (&m)[6]) {
    const V even_a = every_other(aa, y, 0), odd_a = every_other(aa, y, 1);
    const V even_b = every_other(bb, y, 0), odd_b = every_other(bb, y, 1);
    m[0] = y[0];
    m[1] = fma(constant(a), odd_a, even_a);
    m[2] = fma(constant(-a), odd_a, even_a);
    m[3] = fma(constant(b), odd_b, even_b);
    m[4] = fma(constant(-b), odd_b, even_b);
    m[5] = y[kOutputs - 1];
  }
  // The part of G^T u that comes from the points of a pair.
  template <int kIndex>
  HANDCONV_INLINE static void weight_gradient_of_pair(V first, V second, V (&g)[kTaps]) {
    if constexpr (kIndex == 2) {
#pragma GCC unroll 5
      for (int k = 1; k < kTaps - 1; ++k) g[k] = V{};
      g[0] = constant(1 / (aa * bb)) * first;
      g[kTaps - 1] = second;
    } else {
      constexpr double point = kIndex == 0 ? a : b, square = point * point;
      constexpr double at_point = 1 / (2 * square * (2 * square - aa - bb));
      g[0] = constant(at_point) * (first + second);
      g[1] = constant(point * at_point) * (first - second);
#pragma GCC unroll 5
      for (int k = 2; k < kTaps; ++k) g[k] = constant(square) * g[k - 2];
    }
  }
  // G^T u.
  HANDCONV_INLINE static void transform_weight_gradient(const V (&u)[6], V (&g)[kTaps]) {
    V of_a[kTaps], of_b[kTaps], of_ends[kTaps];
    weight_gradient_of_pair<0>(u[1], u[2], of_a);
    weight_gradient_of_pair<1>(u[3], u[4], of_b);
    weight_gradient_of_pair<2>(u[0], u[5], of_ends);
#pragma GCC unroll 5
    for (int k = 0; k < kTaps; ++k) g[k] = of_a[k] + of_b[k];
    g[0] = of_ends[0] + g[0];
    g[kTaps - 1] = of_ends[kTaps - 1] + g[kTaps - 1];
  }

 private:
  HANDCONV_INLINE static V constant(double value) { return broadcast(static_cast<C>(value)); }
  // p[first] + p[first + 2] x + p[first + 4] x^2 + ...
  template <int kTerms>
  HANDCONV_INLINE static V every_other(double x, const V (&p)[kTerms], int first) {
    V sum{};
    bool is_last = true;
#pragma GCC unroll 5
    for (int k = kTerms - 1; k >= 0; --k) {
      if (k < first || (k - first) % 2 != 0) continue;
      sum = is_last ? p[k] : fma(constant(x), sum, p[k]);
      is_last = false;
    }
    return sum;
  }
};
