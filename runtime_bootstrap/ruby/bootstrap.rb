# frozen_string_literal: true

# The managed Ruby runtime: asks the agent for events, calls the handler, answers.
#
# Error types, texts and what ends the process are those of AWS's runtime (github.com/aws/aws-lambda-ruby-runtime-interface-client).

require 'json'
require 'socket'
require 'stringio'
require_relative 'logs'

# How events and answers are read and written; a function may have it another way.
module AwsLambda
  class Marshaller
    class << self
      def marshall_request(raw_request)
        raw_request['Content-Type'] == 'application/json' ? JSON.parse(raw_request.body) : raw_request.body
      end

      # The answer, and its content type unless that is JSON's.
      def marshall_response(method_response)
        method_response.is_a?(StringIO) || method_response.is_a?(IO) ? [method_response, 'application/unknown'] : method_response.to_json
      end
    end
  end
end

module LambdaRuntime
  HERE = File.dirname(File.realpath(__FILE__))
  BASE = '/2018-06-01/runtime/'
  CRITICAL_STATUS = 255
  INIT_STATUS = 252

  # One connection to the Runtime API, kept open.
  class Api
    def initialize(address)
      host, port = address.split(':')
      @host = address
      @socket = TCPSocket.new(host, Integer(port))
      @socket.setsockopt(Socket::IPPROTO_TCP, Socket::TCP_NODELAY, 1)
      @next = "GET #{BASE}invocation/next HTTP/1.1\r\nHost: #{address}\r\n\r\n"
    end

    # Headers, with names in lower case, and body of the next event.
    def next_event
      @socket.write(@next)
      _, headers, body = read
      [headers, body]
    end

    # Status of a POST.
    def post(path, body, content_type, error_type = nil)
      more = error_type.nil? ? '' : "Lambda-Runtime-Function-Error-Type: #{error_type.gsub(/[\r\n]/, ' ')}\r\n"
      head = "POST #{BASE}#{path} HTTP/1.1\r\nHost: #{@host}\r\nContent-Type: #{content_type}\r\n#{more}Content-Length: #{body.bytesize}\r\n\r\n"
      @socket.write(head.b << body.b)
      read[0]
    end

    private

    def read
      status = Integer(@socket.gets("\r\n").split(' ')[1])
      headers = {}
      while (line = @socket.gets("\r\n").chomp("\r\n")) != ''
        name, value = line.split(':', 2)
        headers[name.downcase] = value.strip
      end
      length = Integer(headers.fetch('content-length', '0'))
      [status, headers, length.zero? ? '' : @socket.read(length)]
    end
  end

  # An event as it came.
  class RawEvent
    attr_reader :body

    def initialize(headers, body)
      @headers = headers
      @body = headers['content-type'] == 'application/json' ? body.force_encoding('UTF-8') : body
    end

    def [](name)
      @headers[name.downcase]
    end
  end

  # An exception as callers see it. ``where`` is Function or Init.
  class Failure
    attr_reader :type

    def initialize(error, where = 'Function')
      @type = "#{where}<#{error.class}>"
      frames = (error.backtrace || []).first(100)
      @document = {
        errorMessage: error.message.dup.force_encoding('UTF-8').scrub, errorType: @type, stackTrace: frames.take_while { |f| !f.start_with?(HERE) }
      }
    end

    def body
      JSON.generate(@document)
    end

    def log(message)
      $stdout.puts message
      $stdout.puts JSON.pretty_generate(@document)
    end
  end

  # The handler's second argument.
  class Context
    attr_reader :aws_request_id, :invoked_function_arn, :deadline_ms, :identity, :client_context, :log_group_name, :log_stream_name,
                :function_name, :function_version, :memory_limit_in_mb, :tenant_id

    def initialize(headers)
      @aws_request_id = headers['lambda-runtime-aws-request-id']
      @deadline_ms = Integer(headers['lambda-runtime-deadline-ms'])
      @invoked_function_arn = headers['lambda-runtime-invoked-function-arn']
      @identity = parsed(headers['lambda-runtime-cognito-identity'])
      @client_context = parsed(headers['lambda-runtime-client-context'])
      @tenant_id = headers['lambda-runtime-aws-tenant-id']
      @log_group_name = ENV.fetch('AWS_LAMBDA_LOG_GROUP_NAME', nil)
      @log_stream_name = ENV.fetch('AWS_LAMBDA_LOG_STREAM_NAME', nil)
      @function_name = ENV.fetch('AWS_LAMBDA_FUNCTION_NAME', nil)
      @function_version = ENV.fetch('AWS_LAMBDA_FUNCTION_VERSION', nil)
      @memory_limit_in_mb = ENV.fetch('AWS_LAMBDA_FUNCTION_MEMORY_SIZE', nil)
    end

    def get_remaining_time_in_millis
      [@deadline_ms - Process.clock_gettime(Process::CLOCK_REALTIME, :millisecond), 0].max
    end

    private

    def parsed(text)
      text.nil? || text.empty? ? nil : JSON.parse(text.dup.force_encoding('UTF-8'))
    end
  end

  # FILE.METHOD or FILE.CLASS.METHOD.
  class Handler
    def initialize(name)
      parts = name.split('.')
      unless [2, 3].include?(parts.size)
        raise ArgumentError, "Invalid handler #{parts}, must be of form FILENAME.METHOD or FILENAME.CLASS.METHOD where FILENAME corresponds with an " \
                             'existing Ruby source file FILENAME.rb, CLASS is an optional module/class namespace and METHOD is a callable method. ' \
                             'If using CLASS, METHOD must be a class-level method.'
      end
      file, *namespace, @method = parts
      require file
      @class = namespace.first
    end

    # Body and content type of the answer.
    def call(event, context)
      answer, content_type = AwsLambda::Marshaller.marshall_response(target.__send__(@method, event: event, context: context))
      answer = answer.read if answer.respond_to?(:read)
      [answer.to_s, content_type || 'application/json']
    end

    private

    def target
      @class.nil? ? self : Kernel.const_get(@class)
    end
  end

  module_function

  def run
    api = Api.new(ENV.fetch('AWS_LAMBDA_RUNTIME_API'))
    handler = load_handler(api)
    loop { invoke(api, handler) }
  end

  def load_handler(api)
    name = ENV.fetch('_HANDLER')
    $LOAD_PATH.unshift(ENV.fetch('LAMBDA_TASK_ROOT'))
    Handler.new(name)
  rescue SystemExit
    raise
  rescue Exception => e # rubocop:disable Lint/RescueException -- whatever loading a file may raise, syntax errors among it
    failure = Failure.new(e, 'Init')
    failure.log("Init error when loading handler #{name}")
    api.post('init/error', failure.body, 'application/json', failure.type)
    exit!(INIT_STATUS)
  end

  def invoke(api, handler)
    headers, body = api.next_event
    trace = headers['lambda-runtime-trace-id']
    trace.nil? ? ENV.delete('_X_AMZN_TRACE_ID') : ENV['_X_AMZN_TRACE_ID'] = trace
    LambdaRuntime.request_id = headers['lambda-runtime-aws-request-id']
    path = "invocation/#{LambdaRuntime.request_id}/"
    begin
      event = AwsLambda::Marshaller.marshall_request(RawEvent.new(headers, body))
      answer, content_type = handler.call(event, Context.new(headers))
    rescue NameError, ScriptError, SystemStackError, NoMemoryError => e
      fail_with(api, path, e, 'Critical exception from handler')
      # A name that is not there today will not be there tomorrow, and so with the others: AWS's runtime ends, too.
      exit!(CRITICAL_STATUS)
    rescue StandardError => e
      fail_with(api, path, e, 'Error raised from handler method')
    else
      api.post("#{path}response", answer, content_type)
    end
  end

  def fail_with(api, path, error, message)
    failure = Failure.new(error)
    failure.log(message)
    api.post("#{path}error", failure.body, 'application/json', failure.type)
  end
end

$stdout.sync = true
$stderr.sync = true
LambdaRuntime.run
